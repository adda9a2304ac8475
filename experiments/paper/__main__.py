"""Run the paper's experiments, keep what they leave, and write the page: ``python -m experiments.paper``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from experiments.paper.experiments import EXPERIMENTS, Experiment, experiment
from experiments.paper.figures_with_data import write_figures_with_data
from experiments.paper.page import write_page
from experiments.paper.reference import keep
from experiments.paper.runner import Runner
from experiments.paper.runs import write_facts
from faceexpr.cli.parser import Parser
from faceexpr.utils.errors import BAD_INPUT, SOME_FAILED, FaceExprError
from faceexpr.utils.files import say
from faceexpr.utils.text import some

DESCRIPTION = (
    "Run every experiment of the paper that is missing, one after the other, and write docs/paper.md with the paper's "
    "numbers beside ours. Interrupted, the same command goes on. It is given in a clone of the project, whose "
    "configurations it takes and whose page it writes."
)
ONLY = f"Experiments to run; by default all that can run here: {', '.join(one.name for one in EXPERIMENTS)}."
SEEDS = "Seeds of the runs of all experiments; by default each one's own."


@dataclass(frozen=True)
class PaperOptions:
    """What is run, on which data, and where it is kept.

    Args:
        data: folder with the data sets: fer2013/ (fer2013.csv and FER+'s fer2013new.csv), wider/ (WIDER FACE),
            dataturks/ (face_detection.json), and ferplus/ where the images in FER+'s order are in a file of their own.
        out: folder of the runs: checkpoints, logs and figures with images of the data sets. Small files of the
            finished runs, without such pictures, are copied to lightning_logs/paper of the project.
        only: names of the experiments to run; by default all that can run here.
        seeds: of the runs of all experiments; by default each one's own.
        page_only: run nothing: keep what is in --out, where it is given, and write the page.
        project: the clone of the project.
    """

    data: Path | None = None
    out: Path | None = None
    only: list[str] | None = None
    seeds: list[int] | None = None
    page_only: bool = False
    project: Path = Path()

    def __post_init__(self) -> None:
        if not self.page_only and (self.data is None or self.out is None):
            raise FaceExprError("--data and --out are needed to run experiments; expected both, or --page_only true")
        if self.data is not None and not self.data.is_dir():
            raise FaceExprError(f"--data: {self.data} is no folder; expected one with fer2013/ and wider/")
        if self.page_only and self.out is not None and not self.out.is_dir():
            raise FaceExprError(f"--out: {self.out} is no folder; expected that of earlier runs, or no --out")
        if not (self.project / "configs/paper").is_dir():
            raise FaceExprError(
                f"--project: {self.project.resolve()} has no configs/paper; expected a clone of the project"
            )
        if self.out is not None and self.out.resolve() == self.project.resolve():
            raise FaceExprError(
                "--out is the project itself, whose lightning_logs/paper holds the reference runs; expected another "
                "folder"
            )
        for seed in self.seeds or ():
            if seed < 0:
                raise FaceExprError(f"--seeds has {seed}; expected 0 or more")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; those of the process by default.

    Raises:
        SystemExit: bad input (2), some runs failed (1), or Ctrl-C.
    """
    try:
        _main(args)
    except FaceExprError as error:
        print(f"experiments.paper: error: {error}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None


def _main(args: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m experiments.paper", description=DESCRIPTION)
    parser.add_class_arguments(PaperOptions, skip={"only", "seeds"})
    parser.add_argument("--only", nargs="+", type=str, metavar="NAME", help=ONLY)
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help=SEEDS)
    config = parser.parse_args(args)
    options = PaperOptions(**{option.name: config[option.name] for option in fields(PaperOptions)})
    chosen = list(EXPERIMENTS) if options.only is None else [experiment(name) for name in dict.fromkeys(options.only)]
    failed: list[str] = []
    if not options.page_only:
        assert options.data is not None
        assert options.out is not None
        failed = _run(options, options.data, options.out.absolute(), chosen)
    if options.out is not None:
        _keep(options.project, options.out.absolute())
    for path in write_page(options.project):
        say(f"written: {path}")
    if failed:
        say(f"failed: {some(failed, 20)}")
        raise SystemExit(SOME_FAILED)


def _run(options: PaperOptions, data: Path, out: Path, chosen: Sequence[Experiment]) -> list[str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        # With these, every path in the record of a run is the same on each machine.
        _link(out / "data", data.resolve())
        _link(out / "configs", (options.project / "configs").resolve())
    except OSError as error:
        raise FaceExprError(f"--out: {out} cannot be made ready ({error.strerror}); expected a folder") from error
    seeds = None if options.seeds is None else list(dict.fromkeys(options.seeds))
    return Runner(out, seeds, options.only or ()).run(chosen)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.resolve() != target:
        link.unlink()
    if not link.exists():
        link.symlink_to(target, target_is_directory=True)
    elif link.resolve() != target:
        raise FaceExprError(
            f"--out: {link} is in the place of a link to {target}; expected another folder for the runs"
        )


def _keep(project: Path, out: Path) -> None:

    if (out / "data").exists():
        write_facts(out)
        write_figures_with_data(out)
    kept = keep(out, project, EXPERIMENTS)
    say(f"reference runs: {some(kept, 40) or 'none'}")


if __name__ == "__main__":
    main()
