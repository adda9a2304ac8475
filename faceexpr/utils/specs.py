"""Objects that can say, in plain values, how to build them again.

A checkpoint keeps hyper-parameters as text, numbers, lists and dictionaries only, so that it loads with
``weights_only=True`` and without the script that made it. A class is kept as YAML names it:
``{"class_path": ..., "init_args": {...}}``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faceexpr.utils.errors import FaceExprError

_REQUIRED = inspect.Parameter.empty


class Described:
    """A mixin that remembers the arguments its object was built with, defaults included."""

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Create the object and bind the arguments to the names of ``__init__``."""
        self = super().__new__(cls)
        # Copying and unpickling call __new__ without arguments and restore the attribute afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        given = dict(list(bound.arguments.items())[1:])
        given |= given.pop(_handed_on(cls), {})
        options = option_defaults(cls)  # type: ignore[arg-type]  # takes the hash of a class for that of its objects
        self.init_args = {name: given.get(name, default) for name, default in options.items()} | given
        self.init_args = {name: value for name, value in self.init_args.items() if value is not _REQUIRED}
        return self


@functools.cache
def option_defaults(cls: Any) -> dict[str, Any]:
    """Return the options of a class and their defaults, with those that ``**kwargs`` hands on to its bases.

    An option that a class sets in its call of ``super().__init__`` is none of its own, as on the command line.
    """
    handed_on = _handed_on(cls)
    defaults: dict[str, Any] = {}
    for base in cls.__mro__ if handed_on else (cls,):
        for name, parameter in list(inspect.signature(base.__init__).parameters.items())[1:]:
            defaults.setdefault(name, parameter.default)
    if not handed_on:
        return defaults
    from jsonargparse import ArgumentParser

    options = ArgumentParser(exit_on_error=False).add_class_arguments(cls, fail_untyped=False)
    return {name: defaults[name] for name in options if name in defaults}


def _handed_on(cls: Any) -> str:
    """Return what a class calls the options that it hands on to its base, or nothing."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), "")


def class_path(cls: type) -> str:
    """Return the class's import path."""
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any, option: str) -> Any:
    """Return plain values from which configuration code can build ``value`` again.

    Args:
        value: a plain value, a class, a ``functools.partial`` of one, a `Described` object, or containers of these.
        option: the argument's name, for the message.

    Raises:
        FaceExprError: the value is something else, such as a lambda.
    """
    if value is None:
        return None
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)  # a subclass, such as NumPy's float64, would not load with weights_only=True
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item, f"{option}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item, option) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return describe(dataclasses.asdict(value), option)
    if isinstance(value, Described):
        arguments = {name: describe(item, f"{option}.{name}") for name, item in value.init_args.items()}
        return {"class_path": class_path(type(value)), "init_args": arguments}
    target = callable_class(value)
    if target is not None:
        keywords = value.keywords if isinstance(value, functools.partial) else {}
        arguments = {name: describe(item, f"{option}.{name}") for name, item in keywords.items()}
        return {"class_path": class_path(target)} | ({"init_args": arguments} if arguments else {})
    raise FaceExprError(
        f"{option} is {value!r}, which a checkpoint cannot keep; expected a plain value, a class or a "
        "functools.partial of a class, such as partial(torch.optim.SGD, lr=0.1)"
    )


def callable_class(value: Any) -> type | None:
    """Return the class that a factory builds: the class itself, or that of a partial; None for other callables."""
    if isinstance(value, functools.partial):
        # What jsonargparse hands over for `Callable[..., SomeClass]` is partial(instantiate, SomeClass, ...).
        return next((part for part in (value.func, *value.args) if inspect.isclass(part)), None)
    return value if inspect.isclass(value) else None
