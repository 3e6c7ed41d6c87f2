"""Images on the command line: folders, unusual names, unreadable files, and short labels."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from keras_resattn.cli import main, output
from keras_resattn.cli.arguments import check_folder, check_output
from keras_resattn.models.registry import NETWORKS

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("built_once")]


@pytest.fixture
def folder(tmp_path):
    """A folder with images at two depths, a hidden one, and a file of text."""
    rng = np.random.default_rng(0)
    for name in ("b/1.png", "a/1.png", "a/.hidden.png", "[bold]x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype="uint8")).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def images_of(capsys):
    return [entry["image"] for entry in json.loads(capsys.readouterr().out)]


def test_folders_and_files_are_predicted_in_order(folder, capsys):
    assert main(["predict", str(folder / "b"), str(folder), "--json"]) == 0
    names = ["b/1.png", "[bold]x.png", "a/1.png", "b/1.png"]
    assert images_of(capsys) == [str(folder / name) for name in names]


def test_a_table_shows_names_without_markup_or_control_characters(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    os.rename("b/1.png", "b/\x1b[31m\n.png")
    assert main(["predict", "[bold]x.png", "a", "b"]) == 0
    out = capsys.readouterr().out
    for name in ("[bold]x.png", "a/1.png", r"b/\x1b[31m\n.png"):
        assert name in out
    assert "\x1b[31m" not in out


def test_an_unreadable_image_is_reported_and_skipped(folder, capsys):
    (folder / "a" / "2.png").write_text("no image")
    assert main(["predict", str(folder / "a"), str(folder / "no.png"), str(folder / "b"), "--csv", "--top", "1"]) == 2
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [row["image"] for row in rows] == [str(folder / "a" / "1.png"), str(folder / "b" / "1.png")]
    assert list(rows[0]) == ["image", "rank", "index", "class", "probability"]
    assert f"{folder / 'no.png'} does not exist" in captured.err
    assert f"{folder / 'a' / '2.png'} to be an image" in captured.err
    assert "skipped 2 of 4 images" in captured.err


def test_a_figure_has_one_row_per_readable_image(folder, monkeypatch, capsys):
    seen = {}

    def plot(model, images, **options):
        seen.update(options)
        raise ValueError("seen")

    monkeypatch.setattr("keras_resattn.visualize.plot_attention", plot)
    (folder / "a" / "2.png").write_text("no image")
    os.rename(folder / "[bold]x.png", folder / "a$b$.png")
    paths = [str(folder / name) for name in ("a", "b/1.png", "a$b$.png")]
    assert main(["attend", *paths, "-o", str(folder / "masks.png")]) == 2
    assert [title.splitlines()[0] for title in seen["titles"]] == ["a/1.png", "b/1.png", "a$b$.png"]
    assert [image.shape for image in seen["display_images"]] == [(32, 32, 3)] * 3
    assert not (folder / "masks.png").exists()


def test_a_photo_is_shown_at_its_own_resolution_with_the_class_that_is_named(folder, monkeypatch):
    seen = {}

    def plot(model, images, **options):
        seen.update(options, shape=images.shape)
        raise ValueError("seen")

    monkeypatch.setattr("keras_resattn.visualize.plot_attention_montage", plot)
    Image.new("RGB", (1200, 800)).save(folder / "photo.png")
    options = ["--montage", "--class", "ship", "--resize-mode", "pad"]
    assert main(["attend", str(folder / "photo.png"), "-o", str(folder / "masks.png"), *options]) == 2
    assert seen["shape"] == (1, 32, 32, 3)
    assert [image.shape for image in seen["display_images"]] == [(341, 512, 3)]
    assert seen["titles"][0].splitlines()[2] == "masks for ship"
    assert (seen["classes"], seen["rank"], seen["resize_mode"]) == (8, "gradient", "pad")


def test_a_figure_does_not_overwrite_an_input_image(folder, capsys):
    before = (folder / "a" / "1.png").read_bytes()
    for given in ("a/1.png", "a"):
        assert main(["attend", str(folder / given), "-o", str(folder / "a" / "1.png")]) == 2
        assert "one of the input files" in capsys.readouterr().err
    assert (folder / "a" / "1.png").read_bytes() == before


def test_labels_are_short_and_distinct(folder):
    assert output.labels([folder / "a" / "1.png", folder / "a" / "2.png"]) == ["1.png", "2.png"]
    assert output.labels([folder / "a" / "1.png", folder / "b" / "1.png"]) == ["a/1.png", "b/1.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write anywhere")
def test_write_protected_outputs_raise(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="write-protected"):
        check_output("--output", tmp_path / "a.png", (".png",))
    with pytest.raises(ValueError, match="write-protected"):
        check_folder("--run-dir", tmp_path / "run")


def test_networks_are_listed_as_json_and_csv(capsys):
    assert main(["list", "--json"]) == 0
    found = {record["network"]: record for record in json.loads(capsys.readouterr().out)}
    assert found.keys() == NETWORKS.keys()
    assert "cifar10_v2" in found["CifarResidualAttention56"]["weights"]
    assert found["WARN-16-8"]["parameters"] == NETWORKS["WARN-16-8"].parameters
    assert main(["list", "--csv"]) == 0
    rows = {row["network"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["CifarResidualAttention56"]["weights"].startswith("cifar10_v1;cifar10_v2")
