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

FIT = """\
Train a model. Ready-made configurations come with faceexpr; `faceexpr init --help` lists them:

  faceexpr fit --config folder_compact --data.path faces             your faces, a folder for each expression
  faceexpr fit --config fer2013_simple_cnn --data.path fer2013.csv   the paper's network on FER-2013
  faceexpr fit --config wider_light --data.train boxes.json          a face detector, from images with boxes
  faceexpr fit --config synthetic_simple_cnn                         drawn faces: nothing has to be there

Options come from files and flags, of which a later one takes precedence. Those that are changed first:

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

MEASURE = """\
{what}
The data and all options are those that the checkpoint was trained with, unless others are given:

{examples}

Options come from files (--config FILE) and flags, of which a later one takes precedence. Those that are changed first:

  --ckpt_path CHECKPOINT                 a run's folder (RUN, its best checkpoint), a file, or a model that comes along
  --data CLASS, --data.OPTION            which data; --data.help lists classes, --data.help CLASS its options
  --data.batch_size N                    images in a batch of one process
{options}
  --trainer.devices N                    GPUs or processes; --trainer.help lists what else Lightning's Trainer takes
  --print_config                         show what would be used, and measure nothing

A run goes to lightning_logs/NAME-{verb}/version_N: {files}
"""

AUDIT = """\
Look through a data set: equal and nearly equal images within and across splits, equal images with different labels,
suspects of a wrong label, broken, blank and tiny images and such without a face; of boxes those outside, tiny or
doubled, and faces that nobody has marked. Wrong labels take cleanlab: pip install 'faceexpr[audit]', or --labels false.

  faceexpr audit faces --out audit                         a folder of classes, or of faces
  faceexpr audit fer2013.csv --out audit                   FER-2013
  faceexpr audit boxes.json --out audit                    images with boxes, in any format of annotations
  faceexpr audit --data FERPlus --data.path fer2013.csv --data.votes fer2013new.csv --out audit

Options that are changed first:

  --data CLASS, --data.OPTION    the data set; --data.help CLASS lists the options of a class
  --labels false                 look for no wrong labels, and do without cleanlab
  --faces false                  look neither for images without a face nor for faces without a box
  --similarity 0.9               correlation of pixels from which images are near copies

Written are audit.json with the numbers, audit.html with the images, and audit.csv: fill in its column action, and
--data.exclude audit.csv does it in a training.
"""

BEGINNINGS = {
    "fit": FIT,
    "validate": MEASURE.format(
        verb="validate",
        what="Measure a checkpoint on the validation split (PublicTest of FER-2013), and calibrate it.",
        examples="""\
  faceexpr validate --ckpt_path lightning_logs/NAME/version_0              the best checkpoint of a run
  faceexpr validate --ckpt_path RUN --calibration.enabled true             and fit its probabilities to what is found
  faceexpr validate --ckpt_path RUN --data FaceFolder --data.path faces    on other faces, a folder a class""",
        options="""\
  --calibration.enabled true             calibrate probabilities and prediction sets; see --calibration.help""",
        files="metrics.json and figures. Calibrated weights are calibrated.ckpt\nbeside the checkpoint, "
        "and are taken in its place where the run is named.",
    ),
    "test": MEASURE.format(
        verb="test",
        what="Measure a checkpoint on the test split (PrivateTest of FER-2013).",
        examples="""\
  faceexpr test --ckpt_path lightning_logs/NAME/version_0                  the best checkpoint of a run
  faceexpr test --ckpt_path RUN --data FaceFolder --data.path faces        on other faces, a folder a class
  faceexpr test --ckpt_path wider_light --data FaceBoxes --data.test b.json      a detector that comes with faceexpr""",
        options="""\
  --slices.path groups.csv               every metric by group; see --slices.help
  --robustness.enabled true              also under blur, noise, low resolution and so on; see --robustness.help""",
        files="metrics.json, a table of every image's result, figures.\n"
        "`faceexpr compare RUN RUN` tells whether two differ by more than chance.",
    ),
    "predict": MEASURE.format(
        verb="predict",
        what="Write the class probabilities of images of faces; for photographs see `faceexpr analyze --help`.",
        examples="""\
  faceexpr predict --ckpt_path lightning_logs/NAME/version_0 --data FaceFiles --data.paths '[faces/, a.jpg]'
  faceexpr predict --ckpt_path ferplus_compact_robust --data FaceFiles --data.paths faces
  faceexpr predict --ckpt_path RUN --predictions.path faces.csv            the images that the run was tested on""",
        options="""\
  --predictions.path FILE                the table""",
        files="predictions.csv, a row for each image.",
    ),
    "audit": AUDIT,
}
"""What is printed as the help of verbs whose other options are those of classes that take seconds to load."""

ALL = "`faceexpr {} --help all` lists every option."
"""What is said after it where it is all."""

BASES = {
    "BaseFinetuning", "BasePredictionWriter", "Checkpoint", "DetectionDataModule", "DummyLogger", "Optimised",
    "ProgressBar", "SaveConfigCallback",
}  # fmt: skip
"""Classes that only others are made of, beside those of modules called ``base``."""


def without_all(args: list[str]) -> list[str]:
    """Return the arguments with ``--help`` in the place of ``--help all``."""
    return args[:-1] if args[1:] in (["-h", "all"], ["--help", "all"]) else args


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
