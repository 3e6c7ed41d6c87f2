"""Write the tables of README and documentation that come from data.

    python -m tools.tables      # or `make tables`

In a page, `<!-- table: NAME -->` and `<!-- end -->` mark the place of a table, and the text between them is replaced.
The data are the registry of networks, the records of released weights, and files of results/.
"""

import re
import sys
from pathlib import Path

from keras_resattn.models.registry import NETWORKS
from keras_resattn.models.variants import VARIANTS
from keras_resattn.pretrained import tags
from keras_resattn.pretrained.records import RECORD, weights_folder
from keras_resattn.utils.io import atomic_write, read_json, read_rows
from keras_resattn.utils.network_ids import python_call
from tools import measure_exports
from tools.release import BUNDLED_BELOW

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # whose modules import each other by their names alone

import report  # noqa: E402

COMMAND = "make tables"
PLACE = re.compile(r"<!-- table: (?P<name>.+?) -->\n(?P<content>.*?)<!-- end -->\n", re.DOTALL)


def tables():
    """Return `{name: Markdown}` of all tables."""
    benchmarks = report.tables(read_rows(report.RESULTS / "benchmarks.csv"))
    deletion = deletion_and_insertion(read_rows(report.RESULTS / "deletion_insertion.csv"))
    return {
        "weights": weights(),
        "networks": networks(NETWORKS.values()),
        "networks: imagenet": variants("imagenet", stages=3),
        "networks: units": other_units(),
        "networks: cifar": variants("cifar", stages=1),
        "networks: wide": networks(network for network in NETWORKS.values() if re.match("Wide|ResNet", network.id)),
        "int8": int8(read_rows(report.RESULTS / "int8_accuracy.csv")),
        "exports": measure_exports.table(read_rows(measure_exports.RESULTS)),
        "transfer": transfer(read_rows(report.RESULTS / "transfer.csv")),
        **{f"deletion and insertion: {network}": table for network, table in deletion.items()},
        **{f"benchmarks: {name}": table for name, table in benchmarks.items()},
    }


def markdown(header, lines):
    """Return a table; columns whose title starts with `>` are aligned to the right."""
    alignment = ["---:" if title.startswith(">") else "---" for title in header]
    rows = [[title.removeprefix(">") for title in header], alignment, *lines]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def weights():
    """Released weights, the best tag of each network first."""
    released = [tag for tag in tags() if tag.folder.parent == weights_folder()]
    released.sort(key=lambda tag: (tag.network, "default" not in tag.aliases, tag.tag))
    header = ("network", "tag", "images", "accuracy", ">parameters", ">file", "location")
    return markdown(header, map(_released, released))


def _released(tag):
    record = read_json(tag.folder / RECORD, "Restore it.")
    aliases = ", ".join(f"`{name}`" for name in tag.aliases if name != "default")
    height, width, _ = tag.input_shape
    return (
        f"`{tag.network}`",
        f"`{tag.tag}`" + (f" (alias {aliases})" if aliases else ""),
        f"{tag.training['data']}: {len(tag.classes)} classes, {height} x {width}",
        accuracy(tag.metrics, record["test_split"], best="default" in tag.aliases),
        f"{record['parameters']:,}",
        f"{tag.tensors.stat().st_size / 1e6:.1f} MB" if tag.tensors.exists() else "",
        _location(tag),
    )


def accuracy(metrics, split, best):
    correct, images = metrics["test_correct"], metrics["test_images"]
    accuracy = f"{metrics['test_accuracy']:.2%}".replace("%", " %")
    text = f"{f'**{accuracy}**' if best else accuracy} ({correct:,} of {images:,} {split} images)"
    if "test_accuracy_top5" in metrics:
        text += f"; top-5 {metrics['test_accuracy_top5']:.2%}".replace("%", " %")
    return text


def _location(tag):
    if sum(path.stat().st_size for path in tag.folder.iterdir()) < BUNDLED_BELOW:
        return "in the package"
    if tag.repository:
        return f"[{tag.repository}](https://huggingface.co/{tag.repository})"
    return "in a clone"


def networks(selected):
    """Builder calls, default inputs and costs."""
    header = ("builder", ">input", ">classes", ">parameters", ">GMACs")
    lines = ((_call(each.id), f"{each.size} x {each.size}", each.classes, *_costs(each)) for each in selected)
    return markdown(header, lines)


def _call(network):
    call = python_call(network, "").replace(", )", ")").removesuffix("()")
    return f"`{call}`"


def _costs(network):
    return f"{network.parameters:,}", f"{network.macs / 1e9:.3f}"


def variants(topology, stages):
    """Residual Attention Networks of a topology with its own units, with the modules of their first stages."""
    rows = [row for row in VARIANTS.values() if row.topology == topology and row.unit == "preactivation"]
    title = f"modules in stages 1 to {stages}" if stages > 1 else "modules in each stage"
    lines = (
        (f"`{row.name}`", _numbers(row.modules[:stages]), f"{row.p}, {row.t}, {row.r}", *_costs(row)) for row in rows
    )
    return markdown(("builder", title, "p, t, r", ">parameters", ">GMACs"), lines)


def other_units():
    """Residual Attention Networks with ResNeXt and Inception units."""
    units = {"resnext": "ResNeXt, 32 groups", "inception": "Inception"}
    lines = []
    for row in VARIANTS.values():
        if row.unit in units:
            size = NETWORKS[row.name].size
            lines.append((f"`{row.name}`", units[row.unit], _numbers(row.widths), f"{size} x {size}", *_costs(row)))
    return markdown(("builder", "unit", "inner widths", ">default size", ">parameters", ">GMACs"), lines)


def _numbers(values):
    return ", ".join(map(str, values))


def deletion_and_insertion(rows):
    """`{network: table}`: areas under both curves for each ranking of pixels, the best in bold."""
    header = ("ranking", "mask", ">area under deletion (lower is better)", ">area under insertion (higher is better)")
    networks = {}
    for row in rows:
        networks.setdefault(row["network"], []).append(row)
    tables = {}
    for network, own in networks.items():
        best = {name: pick(float(row[name]) for row in own) for name, pick in (("deletion", min), ("insertion", max))}
        lines = []
        for row in own:
            cells = [row["ranking"], row["mask"].replace("stage", "stage ")]
            for name in best:
                bold = "**" if float(row[name]) == best[name] else ""
                cells.append(f"{bold}{float(row[name]):.3f}{bold} ± {float(row[f'{name}_error']):.3f}")
            lines.append(cells)
        tables[network] = markdown(header, lines)
    return tables


def int8(rows):
    """Test accuracy of exported files in float32 and int8."""
    header = ("weights", "format", "precision", ">accuracy", ">points lost", ">size", ">equal predictions")
    lines = (
        (
            f"`{row['weights']}`",
            f"`{row['format']}`",
            row["precision"],
            f"{row['accuracy']} %",
            row["lost"],
            f"{int(row['bytes']) / 1e6:.1f} MB",
            f"{float(row['agreement']):.1%}".replace("%", " %"),
        )
        for row in rows
    )
    return markdown(header, lines)


def transfer(rows):
    """Test accuracy of examples/09_measure_transfer.py: mean and range over the seeds, and CPU time of training."""
    titles = {"dense": "Dense", "fine_tune": "`fine_tune`"}
    columns = sorted({(int(row["images_per_class"]), row["method"]) for row in rows})
    header = ("source", *(f">{titles[method]}, {count} images of each class" for count, method in columns))
    lines = []
    for source in dict.fromkeys(row["source"] for row in rows):
        cells = [f"`{source}`" + ("" if "/" in source else ", random weights")]
        for count, method in columns:
            key = {"source": source, "method": method, "images_per_class": str(count)}
            own = [row for row in rows if row.items() >= key.items()]
            cells.append(_mean_and_range(own) if own else "")
        lines.append(cells)
    return markdown(header, lines)


def _mean_and_range(rows):
    values = [float(row["test_accuracy"]) for row in rows]
    minutes = sum(float(row["cpu_seconds"]) for row in rows) / len(rows) / 60
    spread = f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else "one seed"
    return f"{sum(values) / len(values):.1f} % ({spread}), {minutes:.1f} min"


def pages():
    """Return `{path: text}` of README and all pages of the documentation."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def updated(text, content):
    """Return the text of a page with the tables of `content`.

    Raises:
        ValueError: if the page names a table that does not exist, or a mark is not closed.
    """
    if text.count("<!-- table:") != len(PLACE.findall(text)):
        raise ValueError("Expected <!-- end --> after each <!-- table: NAME -->, both on lines of their own.")

    def filled(match):
        if match["name"] not in content:
            raise ValueError(f"Expected the name of a table, {', '.join(content)}; received: {match['name']}.")
        return f"<!-- table: {match['name']} -->\n\n{content[match['name']]}\n<!-- end -->\n"

    return PLACE.sub(filled, text)


def stale():
    """Return `{path: new text}` of the pages whose tables differ from the data.

    Raises:
        ValueError: if a mark is invalid, or a table has no place.
    """
    content, texts = tables(), pages()
    placed = {match["name"] for text in texts.values() for match in PLACE.finditer(text)}
    if missing := sorted(set(content) - placed):
        raise ValueError(f"Expected a place for each table; there is none for: {', '.join(missing)}.")
    new = {path: updated(text, content) for path, text in texts.items()}
    return {path: text for path, text in new.items() if text != texts[path]}


def main():
    for path, text in stale().items():
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
