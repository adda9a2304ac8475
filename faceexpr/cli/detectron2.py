"""``faceexpr detectron2``: its options, read and handed over."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import yaml

from faceexpr.boxes.suppression import Suppression
from faceexpr.cli.parser import Parser
from faceexpr.detectron2.installed import require_detectron2
from faceexpr.detectron2.options import BoxData, Detectron2Options, flat
from faceexpr.detectron2.runs import OPTIONS, checkpoint_file, run_folder_of
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say

INTERRUPTED = 130

KEY = "--opts."

DESCRIPTION = {
    "fit": "Train a detector of Detectron2 on your pictures, as in the paper's Table 1 unless told otherwise.",
    "test": "Measure a detector that `faceexpr detectron2 fit` has trained.",
}


def run(args: list[str]) -> None:
    """Run ``faceexpr detectron2 fit`` or ``test``.

    Args:
        args: the arguments, verb included.

    Raises:
        FaceExprError: bad input, Detectron2 that is not installed, or a training that has diverged.
    """
    action = args[1] if len(args) > 1 else ""
    if action in ("-h", "--help"):
        say("usage: faceexpr detectron2 {fit,test} [options]\n")
        for name, line in DESCRIPTION.items():
            say(f"  {name:<5} {line}")
        say("\n`faceexpr detectron2 fit --help` lists the options.")
        return
    if action not in DESCRIPTION:
        raise FaceExprError(f"{action or 'nothing'} is no part of detectron2; expected fit or test")
    options, text = read_options(action, args[2:])
    require_detectron2()
    from faceexpr.detectron2 import session

    try:
        (session.fit if action == "fit" else session.test)(options, text)
    except KeyboardInterrupt:
        say("interrupted; `faceexpr detectron2 fit --resume RUN` goes on from its checkpoints/last.pth")
        raise SystemExit(INTERRUPTED) from None


def read_options(action: str, args: list[str]) -> tuple[Detectron2Options, str]:
    """Return the options, and all of them as YAML for the run folder.

    A run that is resumed or tested gives the defaults: what is written comes before them.

    Args:
        action: ``fit`` or ``test``.
        args: the arguments after it.

    Raises:
        FaceExprError: a bad option.
    """
    options, text = _parse(action, args)
    source = options.resume if action == "fit" else options.ckpt_path
    if source is None:
        return options, text
    return _parse(action, ["--config", str(run_folder_of(checkpoint_file(source)) / OPTIONS), *args])


def _parse(action: str, args: list[str]) -> tuple[Detectron2Options, str]:
    parser = Parser(prog=f"faceexpr detectron2 {action}", description=DESCRIPTION[action])
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(Detectron2Options)
    keys, rest = _keys(args)
    if keys:
        # Of two flags for keys of one node, such as SOLVER, jsonargparse would forget the first.
        before = parser.parse_args([argument for argument in rest if not argument.startswith("--print_config")]).opts
        rest = [*rest, "--opts", json.dumps(dict(flat(before)) | keys)]
    config = parser.parse_args(rest)
    values: dict[str, Any] = {option.name: config[option.name] for option in fields(Detectron2Options)}
    values["data"] = BoxData(**vars(config.data))
    values["suppression"] = Suppression(**vars(config.suppression))
    # What belongs to this command alone would be in the way when the file is given to another.
    for name in ("version", "resume", "ckpt_path"):
        config[name] = None
    return Detectron2Options(**values), parser.dump(config, skip_none=False)


def _keys(args: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the Detectron2 keys among the arguments with their values, and the other arguments."""
    keys: dict[str, Any] = {}
    rest: list[str] = []
    left = iter(args)
    for argument in left:
        if not argument.startswith(KEY):
            rest.append(argument)
            continue
        key, equals, text = argument.removeprefix(KEY).partition("=")
        try:
            keys[key] = yaml.safe_load(text if equals else next(left))
        except (yaml.YAMLError, StopIteration):
            raise FaceExprError(
                f"{KEY}{key} has no value that can be read; expected a number, a text or a list"
            ) from None
    return keys, rest
