"""Tables of README and documentation are the ones that registry, records and results give."""

import pytest

from tools import tables

pytestmark = pytest.mark.once


def test_pages_agree_with_the_data():
    stale = [path.relative_to(tables.ROOT).as_posix() for path in tables.stale()]
    assert stale == [], f"run `{tables.COMMAND}`"


def test_a_changed_table_is_replaced():
    page = "a\n<!-- table: one -->\n\n| old |\n\n<!-- end -->\nb\n"
    new = tables.updated(page, {"one": "| new |\n"})
    assert new == page.replace("old", "new")
    assert tables.updated("<!-- table: one -->\n<!-- end -->\n", {"one": "| new |\n"}) in new


def test_mistakes_in_a_page_are_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"Expected the name of a table, one; received: two\."):
        tables.updated("<!-- table: two -->\n<!-- end -->\n", {"one": ""})
    with pytest.raises(ValueError, match="Expected <!-- end --> after each"):
        tables.updated("<!-- table: one -->\n| old |\n", {"one": ""})
    monkeypatch.setattr(tables, "pages", dict)
    with pytest.raises(ValueError, match=r"Expected a place for each table; there is none for: benchmarks: failed, "):
        tables.stale()


def test_released_weights_state_split_and_top_5():
    metrics = {"test_correct": 6, "test_images": 8, "test_accuracy": 0.75}
    assert tables.accuracy(metrics, "validation", best=False) == "75.00 % (6 of 8 validation images)"
    metrics["test_accuracy_top5"] = 0.875
    assert tables.accuracy(metrics, "test", best=True) == "**75.00 %** (6 of 8 test images); top-5 87.50 %"


def test_transfer_is_a_table_of_means_and_ranges_over_the_seeds():
    def row(source, method, count, seed, accuracy):
        names = ("source", "method", "images_per_class", "seed", "test_accuracy", "cpu_seconds")
        return dict(zip(names, map(str, (source, method, count, seed, accuracy, 60 + 6 * seed)), strict=True))

    rows = [row("Net/tag", "dense", 100, 0, 71.0), row("Net/tag", "dense", 20, 0, 50.0)]
    rows += [row("Net/tag", "dense", 20, 2, 53.0), row("Net", "dense", 20, 0, 20.0)]
    lines = tables.transfer(rows).splitlines()
    assert lines[0] == "| source | Dense, 20 images of each class | Dense, 100 images of each class |"
    assert lines[2] == "| `Net/tag` | 51.5 % (50.0 to 53.0), 1.1 min | 71.0 % (one seed), 1.0 min |"
    assert lines[3] == "| `Net`, random weights | 20.0 % (one seed), 1.0 min |  |"
