"""Tables of results: rows are added whole, or the file stays as it was."""

import pytest

from keras_resattn.utils.io import append_row, read_rows

pytestmark = pytest.mark.once


def test_rows_come_back_as_strings(tmp_path):
    path = tmp_path / "results.csv"
    assert read_rows(path) == []
    append_row(path, {"network": "a, b", "error": 3.5})
    append_row(path, {"network": "c"})
    assert read_rows(path) == [{"network": "a, b", "error": "3.5"}, {"network": "c", "error": ""}]


def test_an_unknown_column_is_refused_and_nothing_changed(tmp_path):
    path = tmp_path / "results.csv"
    append_row(path, {"network": "a"})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"Expected columns network in .*; received: network, error"):
        append_row(path, {"network": "b", "error": 1})
    assert path.read_bytes() == before
