"""The recorded comparisons of exported files are complete."""

import pytest

from keras_resattn.utils.io import read_rows
from tools import measure_exports

pytestmark = pytest.mark.once


def test_every_network_was_exported_from_every_backend():
    measured = [(row["network"], row["backend"], row["format"]) for row in read_rows(measure_exports.RESULTS)]
    assert sorted(measured) == sorted(measure_exports.cases())
