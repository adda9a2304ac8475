"""List the classes that an option takes, and the options of one as they are typed: ``--model.net.help ResNet``."""

from __future__ import annotations

import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, NamedTuple, get_args, get_type_hints

from faceexpr.cli.parser import Parser
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.redirects import redirect
from faceexpr.utils.specs import class_path, option_defaults
from faceexpr.utils.text import nearest

BEGINNING = """\
Train a model. Ready-made configurations come with faceexpr; `faceexpr init --help` lists them:

  faceexpr fit --config folder_compact --data.path faces             your faces, a folder for each expression
  faceexpr fit --config fer2013_simple_cnn --data.path fer2013.csv   the paper's network on FER-2013
  faceexpr fit --config wider_light --data.train boxes.json          a face detector, from images with boxes
  faceexpr fit --config synthetic_simple_cnn                         drawn faces: nothing has to be there

Options come from files and flags, of which the later one goes before. Those that are changed first:

  --data CLASS, --data.OPTION            what is learned from; --data.help lists classes, --data.help CLASS its options
  --model.net CLASS, --model.net.OPTION  the network; --model.net.help lists them
  --model.optimizer.lr RATE              the learning rate; --model.optimizer.help lists optimizers
  --data.batch_size N                    images in a batch of one process
  --trainer.max_epochs N                 how often all training images are seen
  --trainer.devices N                    GPUs or processes; --trainer.help lists what else Lightning's Trainer takes
  --ckpt_path last                       go on with a training that was interrupted
  --print_config                         show what would be used, and train nothing

A run goes to lightning_logs/NAME/version_N (RUN): checkpoints, config.yaml, metrics.json, figures. Then:
  faceexpr test --ckpt_path RUN, faceexpr analyze photo.jpg --classifier RUN, tensorboard --logdir lightning_logs

"""
"""What the help of ``fit`` begins with."""

BASES = {
    "BaseFinetuning", "BasePredictionWriter", "Checkpoint", "DetectionDataModule", "DummyLogger", "Optimised",
    "ProgressBar", "SaveConfigCallback",
}  # fmt: skip
"""Classes that only others are made of, beside those of modules called ``base``."""


class Kind(NamedTuple):
    """A class that an option takes, with its subclasses, and how many arguments the program itself gives it."""

    base: Any
    given: int = 0


def kinds_of(hint: Any, given: int = 0) -> list[Kind]:
    """Return the classes in a type, such as that of ``Callable[[int], ExpressionNet] | None``."""
    parts = get_args(hint)
    if parts and isinstance(parts[0], list):
        return kinds_of(parts[-1], len(parts[0]))
    if parts:
        return [kind for part in parts for kind in kinds_of(part, given)]
    own = inspect.isclass(hint) and hint.__module__.partition(".")[0] not in ("builtins", "pathlib", "datetime")
    return [Kind(hint, given)] if own else []


def choices(kinds: list[Kind]) -> dict[str, Kind]:
    """Return the classes that somebody can choose, by their names: no bases, and none that a library has for itself."""
    found: dict[str, Kind] = {}
    for base, given in kinds:
        classes = [base]
        for each in classes:
            classes += each.__subclasses__()
            path = f".{class_path(each)}"
            # Callbacks of ours are in each run, with options of their own.
            hidden = re.search(r"\._|<locals>|\.base\.|^\.faceexpr\.callbacks\.", path) or inspect.isabstract(each)
            if not hidden and each.__name__ not in BASES and (each is not base or not base.__subclasses__()):
                found.setdefault(each.__name__, Kind(each, given))
    return dict(sorted(found.items()))


class ClassHelp:
    """What there is to choose below the sections of a command line.

    Args:
        sections: the class that each section takes, or that it takes subclasses of.
        chosen: names of the classes that are chosen for options.
    """

    def __init__(self, sections: Mapping[str, Any], chosen: Mapping[str, Any]) -> None:
        self.sections = sections
        self.chosen = dict(chosen)

    def kinds(self, option: str) -> list[Kind]:
        """Return the classes that an option takes; none where it takes plain values."""
        holder, _, name = option.rpartition(".")
        if not holder:
            return [Kind(self.sections[name])]
        defaults = self.options(holder)
        if name not in defaults:
            near = nearest(f"--{option}", (f"--{holder}.{each}" for each in defaults))
            raise FaceExprError(f"--{option} is no option{near}")
        if inspect.isclass(defaults[name]):
            self.chosen.setdefault(option, class_path(defaults[name]))
        bases = [base for base in self.choose(holder).base.__mro__ if name in signature(base.__init__).parameters]
        return kinds_of(get_type_hints(bases[0].__init__)[name])

    def choose(self, option: str, name: Any = None) -> Kind:
        """Return the class of a name, or of an import path; without one that which is chosen or the first."""
        kinds, name = self.kinds(option), name or self.chosen.get(option)
        known = choices(kinds)
        if not isinstance(name, str):
            return next(iter(known.values())) if len(known) == 1 else kinds[0]
        try:
            return known[name] if name in known else Kind(pkgutil.resolve_name(redirect(name)), kinds[0].given)
        except (ImportError, AttributeError, ValueError):
            near = nearest(name, known)
            raise FaceExprError(f"--{option} is {name}{near}; `--{option}.help` lists all {len(known)}") from None

    def options(self, option: str) -> dict[str, Any]:
        """Return the options below one with their defaults; none where it takes no class."""
        return option_defaults(self.choose(option).base) if self.kinds(option) else {}

    def text(self, option: str, name: str | None, hidden: Iterable[str]) -> str:
        """Return the help of an option: its classes, or the options of the class of a name or of the only one."""
        kinds = self.kinds(option)
        if not kinds:
            raise FaceExprError(f"--{option} takes no class, so that there is no help of its own")
        known = choices(kinds)
        if name is None and len(known) > 1:
            lines = [f"--{option} takes one of these; --{option}.help NAME lists the options of one:", ""]
            for each, (base, _) in known.items():
                first = inspect.cleandoc(base.__doc__ or base.__init__.__doc__ or "").partition("\n\n")[0]
                lines.append(f"  {each:<{max(map(len, known))}}  {textwrap.shorten(first, 90, placeholder=' ...')}")
            return "\n".join(lines)
        base, given = self.choose(option, name)
        parser = Parser(add_help=False, print_config=None, usage=f"{base.__name__}, by --{option}.OPTION VALUE")
        skip: set[str | int] = {each.removeprefix(f"{option}.") for each in hidden if each.startswith(f"{option}.")}
        parser.add_class_arguments(base, option, skip=skip | ({given} - {0}), fail_untyped=False)
        # Options come from a file too, but what is typed after the option's own name is a class.
        return re.sub(rf"\n +--{option} CONFIG.*?file\.", "", parser.format_help(), count=1, flags=re.DOTALL).rstrip()
