"""The papers' tables as data: published errors, networks, costs and requirements of their rows."""

import keras
import numpy as np
import pytest
from helpers import assert_close, undrawn

from keras_resattn import count_macs
from keras_resattn.cli import main
from keras_resattn.models.registry import NETWORKS
from keras_resattn.recipes import get_recipe
from keras_resattn.reproduce import DATASETS, TABLES, runner
from keras_resattn.reproduce.published import original

pytestmark = pytest.mark.once

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
def test_rows_hold_the_published_errors(name, published):
    assert ROWS[name][1].published == published


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_a_network_a_recipe_and_data(name):
    table, row = ROWS[name]
    assert row.network in {*NETWORKS, "ClutteredMnistCNN"}
    assert row.get_recipe(3).seed == 3
    assert row.parameters > 0
    assert row.macs > 0
    training = row.training_macs()
    assert training is None or training > 3 * row.macs * DATASETS[row.data].images
    _, shared = original(table, row)
    for field in ("network", "recipe", "data", "published", "arguments", "changes", "base", "test_size"):
        assert getattr(shared, field) == getattr(row, field), f"{name} shares the run of {row.same_as}"


# The others are slow.
QUICK = ("table4/local", "table4/local_one_unit", "fig4/stn", "fig4/no_gates", "table1/warn_28_10_cifar100")


COUNTED = [
    pytest.param(*ROWS[name], marks=[] if name.partition("/")[2] in QUICK else pytest.mark.slow, id=name)
    for name, (_, row) in ROWS.items()
    if row.same_as is None and not row.base
]


@pytest.mark.parametrize(("table", "row"), COUNTED)
def test_parameters_and_multiply_adds_of_rows(table, row):
    def counts():
        side = DATASETS[row.data].size or {"ClutteredMnistCNN": 40}.get(row.network, 32)
        model = runner.build(row, (side, side, 1 if row.network == "ClutteredMnistCNN" else 3))
        return sum(int(np.prod(v.shape)) for v in model.trainable_variables), count_macs(model)

    assert undrawn(counts) == (row.parameters, row.macs)


def test_only_two_tables_require_data_or_weights():
    demanding = {ROWS[name][0].name for name in ROWS if ROWS[name][1].requirements}
    assert demanding == {"resattn/table7", "warn/table3"}


def test_a_scaled_recipe_is_shorter_and_keeps_its_shape():
    paper = get_recipe("resattn_cifar")  # 160,000 iterations with batches of 64: 204.9 epochs of 50,000 images
    short = runner.scale_recipe(paper, images=5000, scale=0.1, all_images=50_000)
    assert (short.epochs, short.iterations, short.milestones) == (20, None, paper.milestones)
    one_cycle = get_recipe("cifar_one_cycle")
    assert runner.scale_recipe(one_cycle, 25_000, 0.5).epochs == 7
    assert runner.scale_recipe(one_cycle, 25_000, 0.5).warmup_epochs == pytest.approx(one_cycle.warmup_epochs / 2)
    assert runner.scale_recipe(one_cycle, 500, 0.001).epochs == 1
    assert runner.scale_recipe(paper, 50_000, 1) is paper


@pytest.mark.parametrize("name", ["warn/fig4", "resattn/table7"])
def test_rows_are_listed_with_errors_costs_and_requirements(name, capsys):
    assert main(["reproduce", name, "--list"]) == 0
    out = capsys.readouterr().out
    assert all(row.name in out and row.network in out for row in TABLES[name].rows)
    assert ("Required: pass --data" in out) == (name == "resattn/table7")
    assert max(map(len, out.splitlines()[2 : 3 + len(TABLES[name].rows)])) <= 80, "rows fit a terminal"


def test_the_list_can_be_limited_to_some_rows(capsys):
    assert main(["reproduce", "resattn/table1", "--list", "--row", "mixed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if "CifarResidualAttention56" in line] == [
        ["mixed", "CifarResidualAttention56", "5.52", "1.03", "0.123", "3.8"]
    ]


def test_without_a_table_all_tables_are_listed(capsys):
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out and table.title in out for name, table in TABLES.items())


def test_a_row_starts_from_the_weights_of_its_base(tmp_path, monkeypatch):
    def network(name, include_top=True, weights=None, classes=10, **kwargs):
        """A convolution, which the base has, and a classifier."""
        inputs = keras.Input((4, 4, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3, name="conv")(inputs))
        model = keras.Model(inputs, keras.layers.Dense(classes, name="predictions")(x) if include_top else x)
        if weights is not None:
            model.load_weights(weights)
        return model

    monkeypatch.setattr(runner.registry, "create_model", network)
    base = network("base", include_top=False)
    base.save_weights(tmp_path / "base.weights.h5")
    _, row = ROWS["warn/table3/wrn_birds"]
    model = runner.build(row, (4, 4, 3), tmp_path / "base.weights.h5")
    assert model.output_shape == (None, 200)
    assert_close(model.get_layer("conv").get_weights()[0], base.get_layer("conv").get_weights()[0], 0)
