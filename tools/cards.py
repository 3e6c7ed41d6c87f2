"""Write the model cards of released checkpoints from their records, and update SHA256SUMS.

    python -m tools.cards weights/NETWORK-TAG ...

Writes `README.md` in each folder again, and the hashes of card and record in `SHA256SUMS`. Everything on a card comes
from the record, so a card is never edited by hand: change the sentences in the record's `card`, or `model_card.md`.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from keras_resattn.pretrained.records import CARD, RECORD, TENSORS, write_sums
from keras_resattn.utils.io import atomic_write, read_json, sha256
from keras_resattn.utils.network_ids import builder_call, python_call
from keras_resattn.utils.provenance import revision_of
from tools.compress_weights import FLOAT16_MANTISSA

TEMPLATE = Path(__file__).with_name("model_card.md")

#: Description and BibTeX entry of networks, by a pattern of network ids; the first match counts.
FAMILIES = {
    "^WARN": (
        "A Wide Attentional Residual Network (Rodriguez et al., ECCV 2018)",
        """@inproceedings{rodriguez2018attend,
  title     = {Attend and Rectify: a Gated Attention Mechanism for Fine-Grained Recovery},
  author    = {Rodr{\\'i}guez, Pau and Gonfaus, Josep M. and Cucurull, Guillem and Roca, F. Xavier and
               Gonz{\\`a}lez, Jordi},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2018}
}""",
    ),
    "Attention": (
        "A Residual Attention Network (Wang et al., CVPR 2017)",
        """@inproceedings{wang2017residual,
  title     = {Residual Attention Network for Image Classification},
  author    = {Wang, Fei and Jiang, Mengqing and Qian, Chen and Yang, Shuo and Li, Cheng and Zhang, Honggang and
               Wang, Xiaogang and Tang, Xiaoou},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2017}
}""",
    ),
    "^Wide": (
        "A Wide Residual Network (Zagoruyko and Komodakis, BMVC 2016)",
        """@inproceedings{zagoruyko2016wide,
  title     = {Wide Residual Networks},
  author    = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {British Machine Vision Conference (BMVC)},
  year      = {2016}
}""",
    ),
    "": (
        "A pre-activation residual network (He et al., ECCV 2016)",
        """@inproceedings{he2016identity,
  title     = {Identity Mappings in Deep Residual Networks},
  author    = {He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2016}
}""",
    ),
}


def model_card(record: dict[str, Any]) -> str:
    """Return the model card of a record (`config.json`): front matter for the Hub, and text.

    Raises:
        ValueError: if the Hub's client cannot read the front matter.
    """
    from huggingface_hub import ModelCard

    text = f"---\n{_metadata(record).to_yaml()}\n---\n\n{_body(record)}"
    ModelCard(text)  # raises for invalid front matter
    return text


def _metadata(record):
    from huggingface_hub import EvalResult, ModelCardData

    metrics, training = record["metrics"], record["training"]
    measured = {"Accuracy": metrics["test_accuracy"], "Top-5 accuracy": metrics.get("test_accuracy_top5")}
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=record["hub_dataset"] or record["dataset"],
            dataset_name=training["data"],
            dataset_split=record["test_split"],
            metric_type="accuracy",
            metric_name=name,
            metric_value=value,
        )
        for name, value in measured.items()
        if value is not None
    ]
    family = "gated-attention" if record["network"].startswith("WARN") else "residual-attention"
    return ModelCardData(
        license=record["license"],
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["keras", "image-classification", *(["attention", family] if _has_attention(record) else [])],
        datasets=None if record["hub_dataset"] is None else [record["hub_dataset"]],
        metrics=["accuracy"],
        model_name=f"{record['network']} {record['tag']}",
        eval_results=results,
    )


def _has_attention(record):
    return re.search("^WARN|Attention|Att", record["network"]) is not None


def _body(record):
    network, training = record["network"], record["training"]
    environment, call = training["environment"], builder_call(network)[0]
    description, citation = next(texts for pattern, texts in FAMILIES.items() if re.search(pattern, network))
    attention = record["card"]["attention"]
    height, width, channels = record["input_shape"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        record=record,
        training=training,
        environment=environment,
        metrics=record["metrics"],
        description=description,
        counted=" as the paper counts them (the implementation computes fewer)" if network.startswith("WARN") else "",
        citation=citation,
        builder=call,
        call=python_call(network, f'weights="{record["tag"]}"'),
        hub_call=python_call(network, 'weights="hf://OWNER/NAME"'),
        height=height,
        width=width,
        channels=channels,
        mean=[round(value, 2) for value in record["preprocessing"]["mean"]],
        std=[round(value, 2) for value in record["preprocessing"]["std"]],
        num_classes=len(record["classes"]),
        classes=("; " if any("," in name for name in record["classes"]) else ", ").join(record["classes"]),
        released=_released(record["mantissa_bits"]),
        accuracies=_accuracies(record["metrics"]),
        recipe=json.dumps(training["recipe"]),
        held_out=_held_out(training),
        device=environment.get("device") or environment["processor"],
        version=environment["versions"][environment["backend"]],
        revision=revision_of(environment) or "unknown",
        sentences=record["card"],
        attention="" if attention is None else f"![Attention masks](attention.png)\n\n{attention}\n\n",
        tensors=TENSORS,
    )


def _released(bits):
    rounded = "" if bits == FLOAT16_MANTISSA else f", kernels rounded to {bits} mantissa bits"
    return f"float16 weights{rounded}, as released (evaluated in float32)"


def _accuracies(metrics):
    """Return `{column: {name: text}}` of the table: header, separator, and cells of both rows."""
    header, line, cells = "accuracy | correct", "---|---", {}
    for key, mark in (("", "**"), ("_float32", "")):
        cells[key] = f"{mark}{metrics[f'test_accuracy{key}']:.2%}{mark} | {metrics[f'test_correct{key}']:,}"
        if "test_accuracy_top5" in metrics:
            top5 = metrics[f"test_accuracy_top5{key}"], metrics[f"test_correct_top5{key}"]
            cells[key] += f" | {top5[0]:.2%} | {top5[1]:,}"
    if "test_accuracy_top5" in metrics:
        header, line = f"{header} | top-5 accuracy | correct", f"{line}|---|---"
    return {"header": header, "line": line, "released": cells[""], "float32": cells["_float32"]}


def _held_out(training):
    count = training.get("held_out_images")
    return "" if not count else f" ({count:,} further ones were held out for validation and never trained on)"


def write_card(folder: Path) -> None:
    """Write the card of a released folder from its record, atomically."""
    record = read_json(folder / RECORD, "Pass the folder of a tag, inside weights/.")
    with atomic_write(folder / CARD) as partial:
        partial.write_text(model_card(record), encoding="utf-8")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folder of a released tag, in weights/")
    for folder in parser.parse_args().folders:
        try:
            write_card(folder)
        except ValueError as error:
            sys.exit(f"cards: {error}")
        write_sums(folder.parent, {f"{folder.name}/{name}": sha256(folder / name) for name in (CARD, RECORD)})
        print(f"wrote {folder / CARD}")


if __name__ == "__main__":
    main()
