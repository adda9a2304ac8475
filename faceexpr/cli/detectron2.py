"""Read the options of ``faceexpr detectron2`` and hand them over."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from faceexpr.cli.parser import Parser, naming_options, read_config
from faceexpr.data.annotations.reading import ReadOptions
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say

if TYPE_CHECKING:
    from faceexpr.detectron2.detectron2_options import Detectron2Options

DESCRIPTION = {
    "fit": "Train a detector of Detectron2 on your images, as in the paper's Table 1 unless told otherwise.",
    "test": "Measure a detector that `faceexpr detectron2 fit` has trained.",
}

NOT_HERE = {
    "batch_size", "num_workers", "augment", "drop_last", "global_batch_size", "memory_gib", "max_pixels",
}  # fmt: skip
"""Options of `FaceBoxes` that say how its own loader works, in whose place Detectron2's is used."""


def run(args: list[str]) -> None:
    """Run ``faceexpr detectron2 fit`` or ``test``, given the arguments with the verb.

    Raises:
        FaceExprError: bad input, Detectron2 that is not installed, or a training that has diverged.
    """
    action = args[1] if len(args) > 1 else ""
    if action in ("-h", "--help"):
        actions = "\n".join(f"  {name:<5} {line}" for name, line in DESCRIPTION.items())
        say(f"usage: faceexpr detectron2 {{fit,test}} [options]\n\n{actions}\n")
        say("`faceexpr detectron2 fit --help` lists the options.")
        return
    if action not in DESCRIPTION:
        raise FaceExprError(f"{action or 'nothing'} is no part of detectron2; expected fit or test")
    options, text = read_options(action, args[2:])
    from faceexpr.detectron2.detectron2_options import require_detectron2

    require_detectron2()
    from faceexpr.detectron2 import detectron2_trainer

    with naming_options(Namespace(**vars(options))):  # type: ignore[no-untyped-call]  # jsonargparse says nothing of it
        (detectron2_trainer.fit if action == "fit" else detectron2_trainer.test)(options, text)


def read_options(action: str, args: list[str]) -> tuple[Detectron2Options, str]:
    """Return the options of ``fit`` or ``test``, and all of them as YAML for the run folder.

    A run that is resumed or tested gives the defaults: what is written comes before them.

    Raises:
        FaceExprError: a bad option.
    """
    from faceexpr.detectron2.detectron2_options import OPTIONS, find_weights

    options, text = _parse(action, args)
    source = options.resume if action == "fit" else options.ckpt_path
    if source is None:
        return options, text
    return _parse(action, ["--config", str(find_weights(source)[1] / OPTIONS), *args])


def _parse(action: str, args: list[str]) -> tuple[Detectron2Options, str]:
    from faceexpr.boxes.suppression import Suppression
    from faceexpr.data.face_boxes import FaceBoxes
    from faceexpr.detectron2.detectron2_options import Detectron2Options, flat

    parser = Parser(prog=f"faceexpr detectron2 {action}", description=DESCRIPTION[action])
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(Detectron2Options, skip={"data"})
    parser.add_class_arguments(FaceBoxes, "data", skip=NOT_HERE)
    # Of two keys below one node, such as SOLVER, jsonargparse would forget the first, so that it sees no nodes.
    hidden = [re.sub(r"(?<=^--opts\.)[^=]+", lambda key: key[0].replace(".", "/"), argument) for argument in args]
    config = parser.parse_args(hidden)
    config.opts = {key.replace("/", "."): value for key, value in flat(config.opts)}
    values: dict[str, Any] = {option.name: config[option.name] for option in fields(Detectron2Options)}
    values["data"] = config.data.as_dict()
    with naming_options(config):
        if values["data"]["reading"] is not None:
            values["data"]["reading"] = ReadOptions(**values["data"]["reading"])
        values["suppression"] = Suppression(**vars(config.suppression))
        options = Detectron2Options(**values)
    if Path(options.model).is_file():
        read_config(Path(options.model))  # in which Detectron2 would not notice a key that stands twice
    # What belongs to this command alone would be in the way when the file is given to another.
    for name in ("version", "resume", "ckpt_path"):
        config[name] = None
    return options, parser.dump(config, skip_none=False)
