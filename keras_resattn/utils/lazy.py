"""Lazy imports, which let the package and its command line start without importing Keras (several seconds)."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package that imports its modules on first use (PEP 562).

    Args:
        package: The package's `__name__`.
        modules: `{public name: module of the package that defines it}`. Where both are equal, the name is the module.
    """

    def get(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{modules[name]}")
        value = module if name == modules[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names():
        return sorted({*vars(sys.modules[package]), *modules})

    return get, list_names


def import_with_keras(*modules: str) -> None:
    """Import modules now if Keras has been imported, otherwise right after Keras.

    Keras can load a saved model only once the classes of its layers are registered, when their modules are imported.
    """
    if "keras" in sys.modules:
        _import(modules)
    else:
        sys.meta_path.insert(0, _KerasFinder(modules))


def _import(modules):
    for module in modules:
        importlib.import_module(module)


class _KerasFinder(importlib.abc.MetaPathFinder):
    """Import hook that imports `modules` at the end of the first import of Keras."""

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
