"""`keras-resattn reproduce`: the papers' tables as data, runs that are measured once, and what is refused."""

import argparse
import json
import re

import keras
import numpy as np
import pytest
from helpers import assert_close, forward, random_array, undrawn
from PIL import Image

from keras_resattn import count_macs
from keras_resattn.cli import main
from keras_resattn.data import Arrays, Folder
from keras_resattn.models.zoo import NETWORKS
from keras_resattn.recipes import get_recipe
from keras_resattn.reproduce import DATA_SETS, TABLES, Row, Table, figures, runs
from keras_resattn.reproduce import published as tables
from keras_resattn.reproduce.report import markdown
from keras_resattn.reproduce.sets import open_sets, thinned
from keras_resattn.responses import plot_responses, stage_responses
from keras_resattn.tables import append_row, read_rows

ROWS = {f"{table.name}/{row.name}": (table, row) for table in TABLES.values() for row in table.rows}
PUBLISHED = {
    "resattn/table1/mixed": 5.52,
    "resattn/table3/attention164_naive": 7.18,
    "resattn/table4/local": 6.48,
    "resattn/table5/attention92_70": 15.75,
    "resattn/table6/attention452_cifar100": 20.45,
    "resattn/table7/attention92": 19.5,
    "warn/table1/warn_40_10_cifar100": 17.82,
    "warn/table3/warn_dogs": 7.1,
    "warn/fig4/depth4_width4": 2.2,
}


@pytest.mark.parametrize(("name", "published"), PUBLISHED.items())
def test_rows_hold_what_the_papers_print(name, published):
    assert ROWS[name][1].published == published


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_a_network_a_recipe_and_data(name):
    table, row = ROWS[name]
    assert row.network in {*NETWORKS, "ClutteredMnistCNN"}
    assert row.get_recipe(3).seed == 3
    assert row.parameters > 0
    assert row.macs > 0
    whole = row.cost()
    assert whole is None or whole > 3 * row.macs * DATA_SETS[row.data].pictures
    _, shared = tables.home(table, row)
    for field in ("network", "recipe", "data", "published", "arguments", "changes", "base", "test_size"):
        assert getattr(shared, field) == getattr(row, field), f"{name} shares the run of {row.same_as}"


# A few stand for all but when there is time.
QUICK = ("table4/local", "table4/local_one_unit", "fig4/stn", "fig4/no_gates", "table1/warn_28_10_cifar100")
COUNTED = [
    pytest.param(*ROWS[name], marks=[] if name.partition("/")[2] in QUICK else pytest.mark.slow, id=name)
    for name, (_, row) in ROWS.items()
    if row.same_as is None and not row.base
]


@pytest.mark.parametrize(("table", "row"), COUNTED)
def test_rows_cost_what_they_say(table, row):
    def counts():
        side = DATA_SETS[row.data].size or {"ClutteredMnistCNN": 40}.get(row.network, 32)
        model = runs.build(row, (side, side, 1 if row.network == "ClutteredMnistCNN" else 3))
        return sum(int(np.prod(v.shape)) for v in model.trainable_variables), count_macs(model)

    assert undrawn(counts) == (row.parameters, row.macs)


def test_only_rows_that_nobody_can_run_offhand_need_something():
    needy = {ROWS[name][0].name for name in ROWS if ROWS[name][1].needs}
    assert needy == {"resattn/table7", "warn/table3"}


def test_a_scaled_recipe_is_shorter_and_keeps_its_shape():
    paper = get_recipe("resattn_cifar")  # 160,000 iterations of 64: 204.9 passes over 50,000 pictures
    short = runs.scaled(paper, pictures=5000, scale=0.1, whole=50_000)
    assert (short.epochs, short.iterations, short.milestones) == (20, None, paper.milestones)
    one_cycle = get_recipe("cifar_one_cycle")
    assert runs.scaled(one_cycle, 25_000, 0.5).epochs == 7
    assert runs.scaled(one_cycle, 25_000, 0.5).warmup_epochs == pytest.approx(one_cycle.warmup_epochs / 2)
    assert runs.scaled(one_cycle, 500, 0.001).epochs == 1
    assert runs.scaled(paper, 50_000, 1) is paper


def small_network(row, shape, base_weights=None):
    """Stands for the network of any row, so that a test takes no minutes."""
    inputs = keras.Input(shape)
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(x), name=f"small_{row.name}")


@pytest.fixture
def table(monkeypatch):
    """A table of two rows, with networks that train in no time, and one row that shares the first one's run."""
    monkeypatch.setattr(runs, "build", small_network)
    shape = {"recipe": "resattn_cifar", "data": "cifar10", "parameters": 1, "macs": 1}
    changes = {"changes": {"epochs": 2, "batch_size": 10, "normalization": "channel", "pad": 1}}
    rows = Row("first", "A", published=5.5, **changes, **shape), Row("second", "B", published=6.5, **changes, **shape)
    again = Row("again", "A", published=5.5, same_as="tiny/first", **changes, **shape)
    monkeypatch.setitem(TABLES, "resattn/tiny", Table("resattn/tiny", "Tiny networks", rows))
    monkeypatch.setitem(TABLES, "resattn/other", Table("resattn/other", "Other networks", (again,)))
    return TABLES["resattn/tiny"]


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    """Runs the command in an empty folder, on 40 training and 20 test pictures of 8 x 8."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8, 3), dtype="uint8"), np.arange(60) % 10
    np.savez(tmp_path / "data.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["reproduce", *arguments, "--data", "data.npz"])


def test_a_run_is_measured_and_recorded_once(table, reproduce, tmp_path, monkeypatch, capsys):
    assert reproduce("resattn/tiny", "--row", "first", "--output", "table.md") == 0
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    results = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert [(row["row"], row["seed"], row["scale"], row["epochs"]) for row in results] == [("first", "0", "1.0", "2.0")]
    assert (results[0]["pictures"], results[0]["test_pictures"], results[0]["data"]) == ("40", "20", "data.npz")
    assert results[0]["backend"] == keras.backend.backend()
    assert float(results[0]["error"]) == error_of(folder, tmp_path / "data.npz")
    text = (tmp_path / "table.md").read_text()
    assert f"| first | A | 5.50 | {float(results[0]['error']):.2f} (n = 1) | 0 | 2 | 40 of 50,000; test 20 of" in text
    assert "| second | B | 6.50 | - | - | - | - |" in text
    assert "wrote table.md" in capsys.readouterr().out

    def never(*args, **kwargs):
        raise AssertionError("the test pictures were used already")

    monkeypatch.setattr(runs, "open_sets", never)
    assert reproduce("resattn/tiny", "--row", "first") == 0
    assert "already" in capsys.readouterr().out
    assert read_rows(tmp_path / "results/resattn_tiny.csv") == results
    assert reproduce("resattn/other") == 0, "a row of another table shares the run"
    assert read_rows(tmp_path / "results/resattn_other.csv") == [{**results[0], "row": "again"}]


def error_of(folder, data):
    """The error of a finished run, computed anew from what its folder holds."""
    report = json.loads((folder / "report.json").read_text())
    model = small_network(TABLES["resattn/tiny"].rows[0], (8, 8, 3))
    model.load_weights(folder / "model.weights.h5")
    arrays = np.load(data)
    x = (arrays["x_test"] - np.array(report["mean"])) / np.array(report["std"])
    wrong = model.predict(x.astype("float32"), verbose=0).argmax(1) != arrays["y_test"]
    return round(100 * float(wrong.mean()), 3)


def test_a_run_that_was_trained_but_not_measured_is_not_trained_again(table, reproduce, tmp_path, monkeypatch):
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [before] = read_rows(tmp_path / "results/resattn_tiny.csv")
    (tmp_path / "runs/resattn/tiny/first/seed1/result.json").unlink()
    (tmp_path / "results/resattn_tiny.csv").unlink()
    monkeypatch.setattr(keras.Model, "fit", None)
    assert reproduce("resattn/tiny", "--row", "first", "--seeds", "1") == 0
    [after] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert {**after, "date": ""} == {**before, "date": ""}


def test_a_rehearsal_is_shorter_and_kept_apart(table, reproduce, tmp_path, capsys):
    assert reproduce("resattn/tiny", "--scale", "0.5", "--row", "second") == 0
    out = capsys.readouterr().out
    [row] = read_rows(tmp_path / "results/resattn_tiny.csv")
    assert f"second, seed 0 at scale 0.5: error {row['error']} % of 10 test pictures\n" in out
    assert "20 of 50,000; test 10 of 10,000 |" in out
    assert (row["scale"], row["epochs"], row["pictures"], row["test_pictures"]) == ("0.5", "1.0", "20", "10")
    assert (tmp_path / "runs/resattn/tiny/second/seed0-scale0.5/result.json").exists()


def measured(row, seed, error, scale=1.0, pictures=50_000):
    counts = {"epochs": 2.0, "pictures": pictures, "test_pictures": 10_000}
    return {
        key: str(value) for key, value in {"row": row, "seed": seed, "scale": scale, "error": error, **counts}.items()
    }


def test_the_table_never_mixes_scales_or_numbers_of_pictures(table):
    results = [
        measured("first", 0, 5.0),
        measured("first", 1, 6.0),
        measured("first", 0, 40.0, scale=0.1),
        measured("first", 2, 20.0, pictures=10_000),
    ]
    whole, rehearsal = markdown(table, results).split("**Rehearsal at scale 0.1**")
    assert "| first | A | 5.50 | 5.50 ± 0.71 (n = 2) | 0, 1 | 2 | 50,000; test 10,000 |" in whole
    assert "| first | A | 5.50 | 20.00 (n = 1) | 2 | 2 | 10,000 of 50,000; test 10,000 |" in whole
    assert "40.00" not in whole
    assert "measured, scale 0.1" in rehearsal
    assert "40.00 (n = 1)" in rehearsal


def test_a_training_that_diverges_leaves_the_other_rows(table, reproduce, tmp_path, monkeypatch, capsys):
    train = runs.compile_and_fit

    def diverging(model, *args, **kwargs):
        if "first" in model.name:
            raise FloatingPointError("The loss is not a finite number.")
        return train(model, *args, **kwargs)

    monkeypatch.setattr(runs, "compile_and_fit", diverging)
    assert reproduce("resattn/tiny") == 2
    assert "first, seed 0: The loss" in capsys.readouterr().err
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_tiny.csv")] == ["second"]


REFUSED = {
    "unknown table": (["resattn/tabel1"], "Expected a table: .* received: resattn/tabel1. Did you mean resattn/table1"),
    "unknown row": (
        ["resattn/table1", "--row", "mixd"],
        "Expected a row of resattn/table1: mixed.* Did you mean mixed?",
    ),
    "scale": (["resattn/table1", "--scale", "0"], r"Expected --scale above 0, up to 1; received: 0\."),
    "large scale": (["resattn/table1", "--scale", "2"], "Expected --scale above 0, up to 1; received: 2"),
    "seed": (["resattn/table1", "--seeds", "0", "-1"], "Expected --seeds of at least 0; received: -1"),
    "ImageNet": (["resattn/table7"], r"Expected what these rows need: pass --data with a folder .*\(attention56, "),
    "ImageNet weights": (
        ["warn/table3", "--row", "warn_dogs"],
        r"pass --base-weights with a \.weights\.h5 file of WideResNet50x2 trained on ImageNet.*\(warn_dogs\)",
    ),
    "no such weights": (
        ["warn/table3", "--row", "wrn_dogs", "--base-weights", "no.h5"],
        "Expected --base-weights to be a file; there is no no.h5",
    ),
    "two data sets": (
        ["resattn/table6", "--data", "cifar10.npz"],
        r"Expected --data cifar10=\.\.\. cifar100=\.\.\., as these rows use 2 data sets; received: cifar10.npz",
    ),
    "other data set": (["resattn/table1", "--data", "mnist=a"], "Expected a data set of these rows: cifar10; received"),
    "data given twice": (
        ["resattn/table1", "--data", "cifar10=a", "--data", "cifar10=b"],
        "Expected one --data cifar10=...; received: a and b",
    ),
    "two unnamed data sets": (["resattn/table1", "--data", "a", "--data", "b"], "Expected --data cifar10=...*: a"),
    "missing file": (["resattn/table1", "--data", "no.npz"], "there is no no.npz"),
    "output": (["resattn/table1", "--output", "a.txt"], "Expected --output to end in .md for resattn/table1"),
    "figure": (["resattn/fig4", "--output", "a.md"], "Expected --output to end in .png, .pdf, .svg, .jpg"),
    "no folder": (["resattn/table1", "--output", "no/a.md"], "Expected --output in a folder that there is"),
    "runs of a table": (["resattn/table1", "--runs", "mixed=a"], "Expected --runs with a figure, such as resattn/fig4"),
    "unknown run": (["resattn/fig4", "--runs", "nave=a"], "Expected a row of resattn/fig4, as ROW=FOLDER.*naive"),
    "runs and a scale": (
        ["resattn/fig4", "--runs", "naive=a", "--scale", "0.1"],
        "Expected --runs without what only a training takes; received: --scale",
    ),
    "no table": (["--row", "mixed", "--seeds", "1"], "Expected a table to run, .*; received: --row, --seeds"),
    "list of one row": (["resattn/table1", "--list", "--row", "mixed"], "no more than a table with --list; .*: --row"),
    "unfinished run": (["resattn/fig4", "--runs", "naive=a"], "Expected a finished run with a report.json"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "open_sets", None)
    arguments, message = REFUSED[case]
    assert main(["reproduce", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--run-dir", "--results"])
@pytest.mark.parametrize("path", ["data.npz", "data.npz/below"])
def test_a_file_in_place_of_a_folder_is_refused_before_training(option, path, table, reproduce, monkeypatch, capsys):
    monkeypatch.setattr(runs, "open_sets", None)
    assert reproduce("resattn/tiny", option, path) == 2
    assert f"Expected {option} to be a folder; data.npz is a file." in capsys.readouterr().err


def test_a_folder_in_place_of_weights_is_refused(tmp_path, capsys):
    assert main(["reproduce", "warn/table3", "--base-weights", str(tmp_path)]) == 2
    assert f"Expected --base-weights to be a file; {tmp_path} is a folder." in capsys.readouterr().err


def test_options_given_again_add_up(table, reproduce, tmp_path, monkeypatch):
    given = []

    def record(table, row, seed, options):
        given.append((row.name, seed, options.where))
        raise FloatingPointError("enough")

    monkeypatch.setattr("keras_resattn.reproduce.command.run", record)
    repeated = ["--row", "second", "--row", "first", "--row", "second", "--seeds", "3", "--seeds", "5", "3"]
    assert reproduce("resattn/tiny", *repeated) == 2
    rows = [("second", 3), ("first", 3), ("second", 5), ("first", 5)]
    assert given == [(*of, {"cifar10": "data.npz"}) for of in rows]


def test_a_file_of_other_results_is_refused_before_training(table, reproduce, tmp_path, capsys):
    append_row(tmp_path / "results/resattn_tiny.csv", {"network": "another"})
    assert reproduce("resattn/tiny") == 2
    assert "Expected columns date, row, seed" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_holds_another_run_is_refused(table, reproduce, tmp_path, capsys):
    folder = tmp_path / "runs/resattn/tiny/first/seed0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"run": {"scale": 1.0, "row": "resattn/tiny/first"}, "result": {}}))
    assert reproduce("resattn/tiny", "--row", "first") == 2
    assert "differs in recipe, data" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["warn/fig4", "resattn/table7"])
def test_the_list_tells_errors_costs_and_needs(name, capsys):
    assert main(["reproduce", name, "--list"]) == 0
    out = capsys.readouterr().out
    assert all(row.name in out and row.network in out for row in TABLES[name].rows)
    assert ("Needed: pass --data" in out) == (name == "resattn/table7")
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_table_all_are_listed(capsys):
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in TABLES)


def test_another_number_of_classes_is_refused(tmp_path):
    x, y = np.zeros((20, 8, 8, 3), "uint8"), np.arange(20) % 10
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(
        ValueError, match=r"Expected the 100 classes of cifar100 in .*; received: training labels of 10"
    ):
        open_sets("cifar100", tmp_path / "data.npz", 1, 1)


def test_thinned_pictures_are_a_fixed_share_of_all_classes(tmp_path):
    x, y = random_array(1000, 1, 1, 3) ** 2 + 1, np.repeat(np.arange(10), 100)
    part = thinned(Arrays(x.clip(0, 255), y), 0.1, 1)
    assert len(part) == 100
    assert len(np.unique(part.labels)) == 10, "labels are sorted, and a first tenth would be one class"
    assert np.array_equal(part.x, thinned(Arrays(x.clip(0, 255), y), 0.1, 1).x)
    assert len(thinned(part, 0.01, 64)) == 64


@pytest.mark.parametrize(("pictures", "tested"), [(1000, 10), (10, 10), (7, 7)])
def test_a_rehearsal_is_tested_on_ten_pictures_or_all(pictures, tested, tmp_path):
    x, y = np.zeros((1000, 2, 2, 3), "uint8"), np.arange(1000) % 10
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[:pictures], y_test=y[:pictures])
    sets = open_sets("cifar10", tmp_path / "data.npz", 0.001, 64)
    assert (len(sets.train), len(sets.tests["error"])) == (64, tested)


def test_a_part_of_a_folder_reads_as_the_folder_does(tmp_path):
    for name, value in (("ant", 10), ("bee", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 4), (value + i, 0, 0)).save(tmp_path / name / f"{i}.png")
    source = Folder(tmp_path)
    part = source.part(np.array([4, 1]))
    assert part.labels.tolist() == [1, 0]
    assert np.array_equal(part.read([0, 1]), source.read([4, 1]))
    assert part.fingerprint() != source.fingerprint()


def test_cluttered_mnist_is_composed_from_digits(tmp_path):
    rng = np.random.default_rng(0)
    digits, labels = rng.integers(0, 256, (10_010, 28, 28), dtype="uint8"), np.arange(10_010) % 10
    arrays = {"x_train": digits, "y_train": labels, "x_test": digits[:50], "y_test": labels[:50]}
    np.savez(tmp_path / "mnist.npz", **arrays)
    sets = open_sets("cluttered_mnist", str(tmp_path / "mnist.npz"), 0.0005, 10)
    assert sets.train.x.shape == (100, 40, 40, 1)
    assert list(sets.tests) == ["error", "error_4", "error_16", "error_32", "error_64"]
    assert all(len(source) == 50 for source in sets.tests.values())
    assert sets.tests["error_64"].x.mean() > sets.tests["error"].x.mean()


def test_errors_of_one_and_of_five():
    """Pictures of one pixel whose channels are the scores: the own class comes 1st, 2nd, 6th and 7th."""
    scores = np.full((4, 1, 1, 10), 10, "uint8")
    for row, (first, before) in enumerate([(3, 0), (3, 1), (0, 5), (0, 6)]):
        scores[row, 0, 0, [c for c in range(10) if c != first][:before]] = 200
        scores[row, 0, 0, first] = 100
    inputs = keras.Input((1, 1, 10))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs))
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0, top5=1.0)
    sets = argparse.Namespace(tests={"error": Arrays(scores, np.array([3, 3, 0, 0]))})
    normalised = argparse.Namespace(mean=[0.0] * 10, std=[1.0] * 10)
    assert runs._errors(model, row, sets, normalised) == {"error": 75.0, "top5_error": 50.0}


def test_tested_at_another_size_with_the_same_weights():
    row = Row("row", "CifarResidualAttention56", "resattn_cifar", "cifar10", 1.0, test_size=9)
    sets = argparse.Namespace(train=argparse.Namespace(channels=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "build", small_network)
        model = small_network(row, (8, 8, 3))
        tested = runs._tested(model, row, sets)
    assert tested.input_shape == (None, 9, 9, 3)
    assert_close(tested.weights[0], model.weights[0], 0)


def test_outputs_that_are_not_numbers_are_no_result():
    inputs = keras.Input((1, 1, 10))
    model = keras.Model(inputs, keras.layers.Flatten()(inputs / 0.0))
    row = Row("row", "A", "resattn_cifar", "cifar10", 1.0)
    sets = argparse.Namespace(tests={"error": Arrays(np.zeros((2, 1, 1, 10), "uint8"), np.array([3, 3]))})
    normalised = argparse.Namespace(mean=[0.0] * 10, std=[1.0] * 10)
    with pytest.raises(FloatingPointError, match="outputs on test pictures are not finite numbers"):
        runs._errors(model, row, sets, normalised)


def test_a_figure_trains_the_rows_of_another_table(table, reproduce, tmp_path, monkeypatch):
    fields = {name: getattr(table.rows[0], name) for name in Row.__dataclass_fields__}
    row = Row(**fields | {"name": "naive", "same_as": "tiny/first"})
    monkeypatch.setitem(TABLES, "resattn/fig9", Table("resattn/fig9", "A figure", (row,), figure=True))
    measured = {"row": "naive", "network": "A", "scale": 1.0, "block": "stage1_unit1", "response": "0.5"}
    folders = []
    monkeypatch.setattr(figures, "measure", lambda row, folder, where: folders.append(folder) or [measured])
    assert reproduce("resattn/fig9") == 0
    assert [str(folder) for folder in folders] == ["runs/resattn/tiny/first/seed0"]
    assert [row["row"] for row in read_rows(tmp_path / "results/resattn_tiny.csv")] == ["first"]
    assert (tmp_path / "results/resattn_fig9.png").exists()
    assert [row["response"] for row in read_rows(tmp_path / "results/resattn_fig9.csv")] == ["0.5"]


def test_a_row_starts_from_the_weights_of_its_base(tmp_path, monkeypatch):
    def network(name, include_top=True, weights=None, classes=10, **kwargs):
        """A convolution, which the base has, and a classifier."""
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3, name="conv")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(classes, name="predictions")(x) if include_top else x)
        if weights is not None:
            model.load_weights(weights)
        return model

    monkeypatch.setattr(runs.zoo, "build", network)
    base = network("base", include_top=False)
    base.save_weights(tmp_path / "base.weights.h5")
    _, row = ROWS["warn/table3/wrn_birds"]
    model = runs.build(row, (4, 4, 3), tmp_path / "base.weights.h5")
    assert model.output_shape == (None, 200)
    assert_close(model.get_layer("conv").get_weights()[0], base.get_layer("conv").get_weights()[0], 0)


def test_responses_are_the_mean_absolute_values_of_stage_outputs(narrow_network, images):
    model = narrow_network(modules=(2, 0, 0), mask_depth=(1, 1, 1))
    blocks = stage_responses(model, images, blocks=True)
    names = ["stage1_unit1", "stage1_attention1", "stage1_attention2", "stage1_unit2"]
    assert list(blocks) == [*names, "stage2_unit1", "stage2_unit2", "stage3_unit1", "stage3_unit2"]
    outputs = [model.get_layer(name).output for name in ("stage1_attention1_post1", "stage1_unit2")]
    expected = [np.abs(output).mean() for output in forward(keras.Model(model.input, outputs), images)]
    assert_close([blocks["stage1_attention1"], blocks["stage1_unit2"]], expected)
    assert stage_responses(model, images) == {
        "stage1": blocks["stage1_unit2"],
        "stage2": blocks["stage2_unit2"],
        "stage3": blocks["stage3_unit2"],
    }


def test_responses_need_stages_and_images(narrow_network, images):
    plain = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()], name="plain")
    with pytest.raises(ValueError, match=r"Expected a network of keras_resattn with its stages .*; received: plain"):
        stage_responses(plain, images)
    with pytest.raises(ValueError, match=r"Expected images of shape .*; received: shape \(32, 32, 3\)"):
        stage_responses(narrow_network(), images[0])


def test_responses_of_networks_with_other_blocks_are_not_drawn_together():
    with pytest.raises(ValueError, match="Expected responses of the same blocks; received: 2 different"):
        plot_responses({"a": {"stage1_unit1": 1.0}, "b": {"stage1_unit2": 1.0}})


@pytest.fixture
def finished_runs(narrow_network, tmp_path, monkeypatch):
    """Two finished runs of seed 4 in the folders `naive` and `residual`, with random weights."""

    def build(row, shape):
        assert (row.network, shape) == ("CifarResidualAttention56", (32, 32, 3))
        return narrow_network(classes=10, **row.arguments)

    x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype="uint8")
    monkeypatch.setattr(figures, "open_source", lambda where: Arrays(x, np.arange(20) % 10))
    monkeypatch.setattr(figures, "build", build)
    networks = {}
    for learning in ("naive", "residual"):
        report = {
            "network": "cifar_residual_attention56",
            "recipe": {"seed": 4},
            "metrics": {"epoch": 7},
            "mean": [127.5] * 3,
            "std": [255.0] * 3,
            "environment": {"backend": "numpy", "revision": None},
        }
        (tmp_path / learning).mkdir()
        (tmp_path / learning / "report.json").write_text(json.dumps(report))
        networks[learning] = narrow_network(classes=10, learning=learning)
        networks[learning].save_weights(tmp_path / learning / "model.weights.h5")
    return networks


def test_the_lines_of_a_figure_say_what_was_trained():
    row = {"row": "naive", "network": "CifarResidualAttention164", "scale": 1.0, "epochs": 205}
    lines = [row, {**row, "scale": 0.1}, {**row, "network": "CifarResidualAttention56", "scale": ""}]
    lines.append({**row, "network": "AttentionNeXt56"})
    assert [figures._label(TABLES["resattn/fig4"], line) for line in lines] == [
        "naive learning",
        "naive learning, rehearsal at scale 0.1",
        "naive learning, Attention-56, 205 epochs",
        "naive learning, AttentionNeXt56",
    ]


RUN_OF = {
    "another learning": (
        "resattn/table1/mixed",
        r"learning='naive' for naive; .*table1/mixed with learning='residual'",
    ),
    "another mask": ("resattn/table4/local", r"mask='encoder_decoder', .*; received: naive, .* with mask='local'"),
    "another data set": ("resattn/table6/attention236_cifar100", r"data='cifar10'.* with data='cifar100'"),
}


@pytest.mark.parametrize("case", RUN_OF)
def test_a_run_of_another_row_is_not_drawn_under_a_wrong_name(
    case, finished_runs, reproduce, tmp_path, monkeypatch, capsys
):
    recorded, message = RUN_OF[case]
    monkeypatch.setattr(figures, "build", None)
    (tmp_path / "naive/result.json").write_text(json.dumps({"run": {"row": recorded, "scale": 0.1}}))
    assert reproduce("resattn/fig4", "--runs", "residual=residual", "naive=naive") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "results").exists()


def test_a_run_of_the_same_learning_may_be_of_another_depth(finished_runs, tmp_path):
    [naive] = TABLES["resattn/fig4"].select(["naive"])
    run = {"row": "resattn/table3/attention56_naive", "scale": 0.1}
    (tmp_path / "naive/result.json").write_text(json.dumps({"run": run}))
    assert figures.open_run(naive, tmp_path / "naive")[1:] == ("CifarResidualAttention56", run)


def test_a_network_that_diverged_is_not_drawn(finished_runs, reproduce, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "stage_responses", lambda model, images, blocks: {"stage1_unit1": np.inf})
    assert reproduce("resattn/fig4", "--runs", "naive=naive", "--output", "fig4.png") == 2
    assert "responses of the network in naive are not finite" in capsys.readouterr().err
    assert not (tmp_path / "fig4.png").exists()


def test_both_kinds_of_responses_are_drawn(narrow_network, images):
    model = narrow_network()
    for blocks, ticks in ((False, ["stage 1", "stage 2"]), (True, ["unit 1", "module 1"])):
        responses = stage_responses(model, images, blocks=blocks)
        alone, [axes] = plot_responses(responses), plot_responses({"a": responses, "b": [responses] * 2}).axes
        assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ticks
        assert_close(alone.axes[0].lines[0].get_ydata(), list(responses.values()))
        assert not alone.legends, "one network needs no name"
        assert [text.get_text() for text in axes.texts] == (["stage 1", "stage 2", "stage 3"] if blocks else [])


NO_RESPONSES = {
    "none": ({}, r"Expected responses, or \{label: responses\}; received: \{\}"),
    "a list": ([{"stage1": 1.0}], r"Expected responses, or \{label: responses\}; received: \[\{"),
    "no run": ({"a": []}, r"Expected responses as stage_responses returns them, .*received: 'a': \[\]"),
    "a number": ({"a": 1.0}, "received: 'a': 1.0"),
    "empty": ({"a": {}}, r"received: 'a': \{\}"),
    "no block": ({"a": {"stage1": 1.0}, "b": {"layer1": 1.0}}, "received: 'b': .*layer1"),
    "no value": ({"a": {"stage1": None}}, "received: 'a': .*None"),
}


@pytest.mark.parametrize("case", NO_RESPONSES)
def test_what_is_no_responses_is_not_drawn(case):
    responses, message = NO_RESPONSES[case]
    with pytest.raises(ValueError, match=message):
        plot_responses(responses)


@pytest.mark.parametrize("copies", [1, 6])
def test_the_legend_covers_nothing_and_is_whole(copies):
    label = "naive attention learning, CifarResidualAttention56, rehearsal at scale 0.001; " * copies
    figure = plot_responses({f"{label}{i}": {"stage1_unit1": 1.0, "stage2_unit1": 2.0} for i in range(3)})
    figure.draw_without_rendering()
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_tightbbox()
    assert legend.y1 <= axes.y0, "it begins below the tick labels"
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= figure.bbox.x1
    assert figure.axes[0].bbox.height > 200, "the more lines it has, the taller the figure"


@pytest.mark.parametrize(("largest", "scale"), [(50.0, "linear"), (500.0, "log")])
def test_responses_that_differ_much_are_drawn_by_their_logarithm(largest, scale):
    figure = plot_responses({"a": {"stage1_unit1": 1.0, "stage2_unit1": largest}})
    assert figure.axes[0].get_yscale() == scale


def test_a_figure_of_two_finished_runs(finished_runs, reproduce, tmp_path, monkeypatch, capsys):
    def respond(model, images, blocks):
        """In place of a forward pass: the range of the pictures, and a weight of the network."""
        assert blocks
        return {"stage1_unit1": np.ptp(images), "stage1_attention1": float(np.abs(model.get_weights()[0]).sum())}

    monkeypatch.setattr(figures, "stage_responses", respond)
    given = ["--runs", "naive=naive", "--runs", "residual=residual"]
    assert reproduce("resattn/fig4", *given, "--output", "fig4.png") == 0
    assert "naive is no run of `reproduce`, and does not say how its attention learns" in capsys.readouterr().out
    with Image.open(tmp_path / "fig4.png") as image:
        assert image.width > 500
    rows = read_rows(tmp_path / "fig4.csv")
    assert {(row["network"], row["seed"], row["epochs"]) for row in rows} == {("CifarResidualAttention56", "4", "7")}
    assert [(row["row"], row["block"]) for row in rows[:3]] == [
        ("naive", "stage1_unit1"),
        ("naive", "stage1_attention1"),
        ("residual", "stage1_unit1"),
    ]
    weights = [np.abs(network.get_weights()[0]).sum() for network in finished_runs.values()]
    assert [float(row["response"]) for row in rows] == pytest.approx([1.0, weights[0], 1.0, weights[1]], rel=1e-4)
