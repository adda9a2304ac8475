"""Classes of a folder by their names, loaded when somebody asks for them: its modules import each other through it."""

import pkgutil
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any


def classes_of(package: str, path: Iterable[str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a folder: the class of a name, in whichever of its modules that stands."""

    def find(name: str) -> Any:
        modules = [module.name for module in pkgutil.iter_modules(path)] if name[0].isupper() else []
        # The module that is called like the class comes first, so that `SimpleCNN` does not load all networks.
        for module in sorted(modules, key=lambda module: module.replace("_", "") != name.lower()):
            found = getattr(import_module(f"{package}.{module}"), name, None)
            if isinstance(found, type) and found.__module__.startswith(f"{package}."):
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
