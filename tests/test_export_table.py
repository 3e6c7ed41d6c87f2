"""The table of exports in the documentation is the one that the recorded results give."""

import importlib.util
from pathlib import Path

import pytest

from keras_resattn.utils.io import read_rows

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[1] / "tools" / "measure_exports.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("measure_exports", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_documentation_and_results_agree(tool):
    text = tool.PAGE.read_text(encoding="utf-8")
    assert text.split(tool.BEGIN)[1].split(tool.END)[0] == tool.table(read_rows(tool.RESULTS))


def test_every_network_was_exported_from_every_backend(tool):
    measured = [(row["network"], row["backend"], row["format"]) for row in read_rows(tool.RESULTS)]
    assert sorted(measured) == sorted(tool.cases())
