"""Classes of a folder by their names, loaded when somebody asks for them: its modules import each other through it."""

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def classes_of(
    package: str, path: Iterable[str], homes: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a folder: the class of a name, in whichever of its modules.

    Of its ``__all__`` alone: jsonargparse asks the folder for every class below it, and would load all.

    Args:
        package: the folder's name.
        path: where its modules are.
        homes: modules of names, of functions or of what is to be found without loading other modules.
    """

    def find(name: str) -> Any:
        if homes is not None and name in homes:
            return getattr(import_module(homes[name]), name)
        public = name in import_module(package).__all__
        modules = [module.name for module in pkgutil.iter_modules(path)] if public else []
        # The module that is called like the class comes first, so that `SimpleCNN` does not load all networks.
        for module in sorted(modules, key=lambda module: module.replace("_", "") != name.lower()):
            found = getattr(import_module(f"{package}.{module}"), name, None)
            if isinstance(found, type) and found.__module__.startswith(f"{package}."):
                return found
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        module = import_module(package)
        return sorted({*vars(module), *module.__all__})

    return find, listed
