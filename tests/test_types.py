"""The public interface is annotated, as `py.typed` promises; pyright checks the annotations."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import keras_resattn
from keras_resattn import data, layers, pretrained, recipes, reproduce

pytestmark = pytest.mark.once

PACKAGES = (keras_resattn, pretrained, data, layers, recipes, reproduce)
DOCS = Path(__file__).parents[1] / "docs"


def documented():
    """Return the names that the reference pages document or packages export."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    names = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    exported = [f"{package.__name__}.{name}" for package in PACKAGES for name in package.__all__]
    return sorted({*names, *exported})


def resolved(name):
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return getattr(resolved(module), attribute)


def functions_of(public):
    """Yield `(qualified name, function)` of a function, or of the methods that a class defines itself."""
    if inspect.isfunction(public):
        yield public.__qualname__, public
    elif inspect.isclass(public):
        for name, member in vars(public).items():
            if isinstance(member, property):
                member = member.fget
            elif isinstance(member, (classmethod, staticmethod)):
                member = member.__func__
            generated = dataclasses.is_dataclass(public) and name == "__init__"
            if inspect.isfunction(member) and not generated and (name == "__init__" or not name.startswith("_")):
                yield f"{public.__qualname__}.{name}", member


def lacking(function):
    """Return the parameters of a function without an annotation, and `"return"` if that has none."""
    signature = inspect.signature(function)
    parameters = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    parameters = [name for name in parameters if name not in ("self", "cls")]
    return parameters + ["return"] * (signature.return_annotation is signature.empty)


def test_everything_public_is_annotated():
    names = documented()
    assert {"keras_resattn.compile_and_fit", "keras_resattn.data.Dataset", "keras_resattn.layers.SoftMask"} <= {*names}
    found = {}
    for name in names:
        for qualified, function in functions_of(resolved(name)):
            if lacking(function):
                found[f"{name}: {qualified}"] = lacking(function)
    assert found == {}


def test_renumbering_needs_class_names():
    dataset = data.ArrayDataset(np.zeros((2, 4, 4, 3), "uint8"), [0, 1])
    with pytest.raises(ValueError, match="received: data without names"):
        dataset.renumbered(["cat", "dog"])
