"""``faceexpr sweep``: divide the options into the sweep's own and those of ``fit``, and run the sweep."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from faceexpr.cli.parser import Parser
from faceexpr.sweep.options import SweepOptions
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import nearest

OPTION = re.compile("--?[A-Za-z]")  # and no negative number

DESCRIPTION = (
    "Run fit again and again over a grid of its options, or search them. Every option that is not listed here goes to "
    "fit as it is, --config included: `faceexpr sweep --config BASE.yaml --sweep SWEEP.yaml --data.path fer2013.csv`. "
    "Given again, the same command goes on; given at the same time, it shares the work. No trial sees the test split."
)


def read_options(args: Sequence[str]) -> tuple[SweepOptions, list[str]]:
    """Divide the arguments after the verb into the sweep's own options and those that are for ``fit``."""
    parser = Parser(prog="faceexpr sweep", description=DESCRIPTION)
    parser.add_argument("--sweep", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(SweepOptions)
    own, rest = _divide(args, {"sweep", "print_config", *(option.name for option in fields(SweepOptions))})
    config = parser.parse_args(own)
    values = {option.name: config[option.name] for option in fields(SweepOptions)}
    if values["name"] is None:
        values["name"] = Path(str(config.sweep[-1])).stem if config.sweep else "sweep"
    return SweepOptions(**values), rest


def _divide(args: Sequence[str], names: set[str]) -> tuple[list[str], list[str]]:
    """Divide the arguments into those whose option is among the names, with their values, and the others."""
    own: list[str] = []
    rest: list[str] = []
    target = rest
    for argument in args:
        if argument in ("-h", "--help"):
            target = own
        elif OPTION.match(argument):
            target = own if re.split("[=.]", argument.removeprefix("--"), maxsplit=1)[0] in names else rest
        target.append(argument)
    return own, rest


def run(args: list[str]) -> None:
    """Run ``faceexpr sweep``, given the arguments with the verb; `Sweep.run` says how it ends."""
    options = read_options(args[1:])
    if not options[0].parameters:
        raise FaceExprError("--sweep is missing; expected a YAML file whose parameters are options of fit with values")
    from faceexpr.sweep.study import Sweep  # and with it torch, which the options do not need

    try:
        Sweep(*options).run()
    except FaceExprError as error:  # of an option that is none of fit's, and may be meant for the sweep
        word = re.search(r"unrecognized arguments: (--[^\s=;]+)[^;]*$", str(error))
        near = nearest(word[1], [f"--{option.name}" for option in fields(SweepOptions)]) if word else ""
        raise FaceExprError(f"{error}{near}") from error
