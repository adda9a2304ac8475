"""The ``faceexpr`` command: find the verb, run it, and end with one sentence and an exit code where that fails."""

from __future__ import annotations

import codecs
import errno
import linecache
import locale
import logging
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from faceexpr import __version__
from faceexpr.cli.help import ALL, BEGINNINGS
from faceexpr.utils.errors import BAD_INPUT, INTERRUPTED, PIPE_CLOSED, FaceExprError, of_file
from faceexpr.utils.text import nearest, printable_lines

VERBS: dict[str, tuple[str, str]] = {
    "init": ("faceexpr.cli.init:run", "Copy configurations that come with faceexpr, to edit them."),
    "fit": ("faceexpr.cli.train:run", "Train a model."),
    "validate": ("faceexpr.cli.train:run", "Measure a checkpoint on the validation split (PublicTest of FER-2013)."),
    "test": ("faceexpr.cli.train:run", "Measure a checkpoint on the test split (PrivateTest of FER-2013)."),
    "predict": ("faceexpr.cli.train:run", "Write the class probabilities of images to predictions.csv."),
    "sweep": ("faceexpr.cli.sweep:run", "Run fit over a grid of its options, or search them."),
    "analyze": ("faceexpr.cli.analyze:run", "Find the faces in photographs and tell the expression of each."),
    "serve": ("faceexpr.cli.serve:run", "Serve a page and POST /analyze: photographs in, expressions out."),
    "merge": ("faceexpr.cli.merge:run", "Put the parts of an analysis by several processes together."),
    "annotate": ("faceexpr.cli.annotate:run", "Draw the true boxes of an annotation file into its images."),
    "fetch": ("faceexpr.cli.fetch:run", "Fetch the images that an annotation file names by links."),
    "detectron2": ("faceexpr.cli.detectron2:run", "Train or measure a detector of Detectron2."),
    "audit": ("faceexpr.cli.audit:run", "Find copies, wrong labels, broken images and missing boxes in a data set."),
    "compare": ("faceexpr.cli.compare:run", "Tell whether the difference between runs is more than chance."),
    "runs": ("faceexpr.cli.list_runs:run", "List the runs in a folder with their metrics."),
    "export": ("faceexpr.cli.export:run", "Write a checkpoint as one file: a program or a model file."),
}
"""Each verb with its function (module:name, called with all arguments) and one line of help."""

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables of launchers that Lightning reads while it is imported, and takes for whole numbers."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a command line.

    Args:
        args: the arguments after the program's name; those of the process by default.

    Raises:
        SystemExit: with a code that is not 0 when something was wrong.
    """
    if args is None:
        _use_utf8()
    arguments = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A file name that the console's encoding does not know must not end a run. Files are in UTF-8.
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    if str(Path.cwd()) not in sys.path:
        # Classes of the user's own, named by import path, lie in the current folder; last, where it hides nothing.
        sys.path.append(str(Path.cwd()))
    verb = arguments[0] if arguments else "--help"
    if verb not in VERBS and not verb.startswith("-"):
        _refuse("", FaceExprError(f"{verb} is no verb{nearest(verb, VERBS)}; `faceexpr --help` lists them"))
    if verb not in VERBS:
        _overview().parse_args([verb])
        return
    if verb in BEGINNINGS and arguments[1:] in (["-h"], ["--help"]):
        print(f"{BEGINNINGS[verb]}\n{ALL.format(verb)}")
        return
    # Torch's C++ part would warn with a stack trace where another process has gone, which a sentence says already.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Figures are only written to files, whatever a notebook or a desktop has set.
    os.environ["MPLBACKEND"] = "agg"
    # Pillow warns of odd images without their names; what matters becomes a reason or a note.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(WarningLines())
    logging.getLogger("py.warnings").addHandler(shown)
    logging.captureWarnings(True)
    try:
        _check_ranks()
        pkgutil.resolve_name(VERBS[verb][0])(arguments)
    except FaceExprError as error:
        _refuse(verb, error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever was reading the output, such as `head`, has had enough. What Python still holds back goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED) from None
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        _refuse(verb, of_file(error))
    finally:
        logging.captureWarnings(False)
        logging.getLogger("py.warnings").removeHandler(shown)


class WarningLines(logging.Formatter):
    """Show the warnings of this package as lines, without their place in its source; others as Python does."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().rstrip("\n")
        own = re.match(rf"({re.escape(str(Path(__file__).parents[1]))}\S+?):(\d+): \w+: ", text)
        source = linecache.getline(own[1], int(own[2])).strip() if own else ""
        return f"warning: {text[own.end() :].removesuffix(source).rstrip()}" if own else text


def _use_utf8() -> None:
    """Start Python anew in its UTF-8 mode where the system's encoding is another one, as under ``LC_ALL=C``.

    Libraries read and write configurations in that encoding, and Python decodes names of files and arguments by it.
    """
    known = codecs.lookup(locale.getpreferredencoding(False)).name == "utf-8"
    if not known and os.name == "posix" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _check_ranks() -> None:
    for name in RANKS:
        rank = os.environ.get(name, "0").strip()
        if not (rank.isascii() and rank.isdigit()):
            raise FaceExprError(
                f"the environment says {name}={rank}; expected a whole number, as torchrun or SLURM sets it, or nothing"
            )


def _refuse(verb: str, error: FaceExprError) -> NoReturn:
    print(printable_lines(f"{' '.join(('faceexpr', *verb.split()))}: error: {error}"), file=sys.stderr)
    raise SystemExit(BAD_INPUT) from None


def _overview() -> ArgumentParser:
    """Return a parser that answers ``--help`` and ``--version`` without loading torch."""
    parser = ArgumentParser(
        prog="faceexpr",
        version=__version__,
        description="Train, compare and ship face detection and facial-expression recognition. "
        "`faceexpr VERB --help` lists the options of a verb.",
    )
    verbs = parser.add_subcommands(required=False, title="verbs", metavar="VERB", description=None)
    for verb, (_, line) in VERBS.items():
        verbs.add_subcommand(verb, ArgumentParser(prog=f"faceexpr {verb}"), help=line)
    return parser
