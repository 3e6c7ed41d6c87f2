"""Records of released checkpoints (`config.json`): invalid ones raise an error that names the file."""

import json

import pytest

from keras_resattn.pretrained import Checkpoint

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "change",
    [
        {"classes": "abc"},
        {"classes": [1, 2, 3]},
        {"preprocessing": {"mean": [0, float("nan"), 0], "std": [1, 1, 1]}},
        {"preprocessing": {"mean": [0, 0, 0], "std": [1, 0, 1]}},
        {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1]}},
        {"preprocessing": [0]},
        {"input_shape": [32, 32]},
        {"input_shape": ["32", 32, 3]},
        {"sha256": None},
        {"tag": 7},
        {"training": {"recipe": "x" * 2**21}},
        {"training": ["x"]},
        {"metrics": 0.9},
        {"metrics": None},
        {"preprocessing": {"mean": [[0], 0, 0], "std": [1, 1, 1]}},
        {"classes": [["x"]]},
        {"classes": ["\x1b[2J"]},
        {"classes": [""]},
        {"network": "../Net"},
        {"network": ["Net"]},
        {"tag": "../../evil"},
        {"tag": "/etc"},
        {"tag": ".."},
        {"tag": ""},
        {"sha256": "0"},
        {"sha256": "G" * 64},
        {"dataset": "../cifar10"},
    ],
)
def test_a_record_with_an_invalid_field_raises(tmp_path, change):
    record = {"network": "Net", "tag": "a", "sha256": "0" * 64, "classes": ["x"], "input_shape": [32, 32, 3]}
    record |= {"preprocessing": {"mean": [0, 0, 0], "std": [1, 1, 1]}, "metrics": {}, "training": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    assert Checkpoint.read(tmp_path).classes == ("x",)
    (tmp_path / "config.json").write_text(json.dumps(record | change))
    with pytest.raises(ValueError, match=r"Expected .*config\.json to be the record"):
        Checkpoint.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"7", b"[" * 100_000, b'{"a":' * 100_000])
def test_a_record_that_is_not_a_dictionary_raises(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected .*config\.json to be the record"):
        Checkpoint.read(tmp_path)


def test_an_invalid_record_is_named(narrow_network, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json"):
        narrow_network(weights=tmp_path)
