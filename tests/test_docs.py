"""The Python blocks of README and docs: they compile, use names and arguments that exist, and run."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_resattn
from keras_resattn import data, deployment, layers, pretrained, recipes, reproduce, visualize

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def blocks_of(page):
    """`(line, code)` of each Python block of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, match.start()) + 2, match.group(1)


BLOCKS = {f"{page}:{line}": code for page in PAGES for line, code in blocks_of(page)}


@pytest.fixture(params=BLOCKS)
def tree(request):
    return ast.parse(BLOCKS[request.param], request.param)


def test_the_pages_have_blocks():
    assert len(BLOCKS) > 30
    fences = sum((ROOT / page).read_text(encoding="utf-8").count("```python") for page in PAGES)
    assert len(BLOCKS) == fences, "a fence that is indented or not closed is not read"


OPTIONAL = {"keras_hub", "keras_cv"}  # extras that are not installed for the tests; `test_detection` runs their blocks


def imported(node):
    """`{name: object}` of `from module import name`."""
    module = importlib.import_module(node.module)
    for alias in node.names:
        if not hasattr(module, alias.name):
            importlib.import_module(f"{node.module}.{alias.name}")
    return {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}


def test_imports_resolve(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in OPTIONAL:
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert imported(node)


def names_in(tree):
    """`{name: object}` of what a block imports, and of what earlier blocks of any page import from the package."""
    names = {name: getattr(keras_resattn, name) for name in keras_resattn.__all__}
    names |= {"keras": keras, "keras_resattn": keras_resattn}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= imported(node)
    return names


def resolved(node, names):
    """The object that an expression such as `keras_resattn.data.open_dataset` names; `None` for a local variable."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        parent = resolved(node.value, names)
        return None if parent is None else getattr(parent, node.attr)
    return None


def test_calls_use_arguments_that_exist(tree):
    names = names_in(tree)
    for node in ast.walk(tree):
        called = resolved(node.func, names) if isinstance(node, ast.Call) else None
        if called is None or not getattr(called, "__module__", "").startswith("keras_resattn"):
            continue
        arguments = [inspect.Parameter.empty] * len(node.args)
        keywords = {keyword.arg: None for keyword in node.keywords if keyword.arg}
        inspect.signature(called).bind_partial(*arguments, **keywords)


def test_the_reference_has_every_public_name():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference" / "api").glob("*.md"))
    found = set(re.findall(r"^::: [\w.]*?(\w+)$", text, re.MULTILINE)) | set(re.findall(r"`(?:[\w.]+\.)?(\w+)", text))
    for package in (keras_resattn, data, deployment, layers, pretrained, recipes, reproduce, visualize):
        names = {name for name in package.__all__ if not inspect.ismodule(getattr(package, name))}
        assert names <= found, f"names of {package.__name__} without documentation"


# Blocks that need a download, files of the reader's or hours of training.
NEEDS_MORE = re.compile(
    r'"cifar10"|keras_hub|keras_cv|load_data|tf_flowers|weights="imagenet"|MobileNetV2\(include_top'
    r'|"network[."]|"birds|"runs/|photo\.jpg|fine_tune\(|ResidualAttention452|ResidualAttention92'
)


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """What the blocks take for granted, in a folder that holds the images and weights of the repository."""
    for folder in ("examples", "weights"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())  # one of the blocks sets it
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 32, 32, 3), dtype="uint8")
    model = keras_resattn.CifarResidualAttention56(include_preprocessing=True)
    backbone = keras_resattn.CifarResidualAttention56(include_top=False, pooling="avg", include_preprocessing=True)
    labels = np.arange(10) % 5
    return {
        "keras": keras,
        "keras_resattn": keras_resattn,
        **{name: getattr(keras_resattn, name) for name in ("attention_maps", "preprocess_input")},
        "images": images,
        "x_train": images,
        "x_val": images,
        "x_new": images,
        "y_train": labels,
        "y_val": labels,
        "model": model,
        "backbone": backbone,
        "probabilities": np.full((1, 10), 0.1),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match")
@pytest.mark.parametrize(
    "page",  # tests/test_tutorials.py runs the tutorials
    [page for page in PAGES if "tutorials" not in page and any(name.startswith(page) for name in BLOCKS)],
)
def test_blocks_run_in_their_order(page, variables, capsys):
    if page == "docs/how-to/gated-attention.md":
        variables["model"] = keras_resattn.attend_and_rectify(variables["model"], attention_depth=1)
    for line, code in blocks_of(page):
        if not NEEDS_MORE.search(code):
            exec(compile(code, f"{page}:{line}", "exec"), variables)
