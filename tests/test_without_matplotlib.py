"""Without matplotlib everything but drawing works, and drawing says what to install."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from helpers import tiny
from PIL import Image
from training import RECIPE, X, Y

from keras_resattn import attention_maps, compile_and_fit, plot_attention, plot_attention_montage
from keras_resattn.cli import main
from keras_resattn.recipes.history import plot_history
from keras_resattn.visualize.responses import plot_responses

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name))


def test_a_run_is_complete_but_for_its_figure(tmp_path):
    recipe = RECIPE.replace(epochs=1, warmup_epochs=0)
    report = compile_and_fit(tiny(), recipe, (X, Y), run_dir=tmp_path, verbose=0)
    assert (tmp_path / "report.json").exists()
    assert not (tmp_path / "history.png").exists()
    with pytest.raises(ImportError, match="matplotlib"):
        plot_history(report.history)


def test_masks_are_arrays_and_figures_say_what_to_install(narrow_network, images):
    model = narrow_network()
    assert list(attention_maps(model, images)) == ["stage1_attention1_mask"]
    for plot in (plot_attention, plot_attention_montage):
        with pytest.raises(ImportError, match=r"pip install 'keras-resattn\[viz\]'"):
            plot(model, images)
    with pytest.raises(ImportError, match=r"pip install 'keras-resattn\[viz\]'"):
        plot_responses({"stage1": 1.0})


def test_the_command_line_predicts_and_says_what_attend_needs(tmp_path, capsys):
    path = tmp_path / "image.png"
    Image.fromarray(np.zeros((32, 32, 3), "uint8")).save(path)
    assert main(["predict", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert main(["attend", str(path), "-o", str(tmp_path / "masks.png")]) != 0
    error = capsys.readouterr().err
    assert "pip install 'keras-resattn[viz]'" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "masks.png").exists()
