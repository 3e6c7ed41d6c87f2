"""Imports at first use: the package, its recipes and its command line start without Keras, which takes seconds."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its modules at first use (PEP 562).

    Args:
        package: The package's `__name__`.
        modules: `{public name: module of the package that defines it}`; the module itself where both are the same.
    """

    def __getattr__(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        value = module if name == modules[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__():
        return sorted({*vars(sys.modules[package]), *modules})

    return __getattr__, __dir__


def import_with_keras(*modules: str) -> None:
    """Import modules as soon as Keras is there: now if it has been imported, else right after it.

    Keras loads a saved model only if the classes of its layers are registered, which importing their modules does.
    """
    if "keras" in sys.modules:
        _import(modules)
    else:
        sys.meta_path.insert(0, _KerasFinder(modules))


def _import(modules):
    for module in modules:
        importlib.import_module(module)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Finds Keras as Python does, once, and has `modules` imported at the end of its import."""

    def __init__(self, modules):
        self.modules = modules

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _import(self.modules)

            spec.loader.exec_module = exec_module
        return spec
