"""Whether an experiment can be run with the data and on the machine at hand."""

from __future__ import annotations

from pathlib import Path

from experiments.paper.commands import RUNS, WIDER_TRAIN, WIDER_VAL
from experiments.paper.experiments import Experiment
from experiments.paper.record import gpu_name
from faceexpr.utils.errors import FaceExprError


def obstacle(experiment: Experiment, out: Path, asked_for: bool) -> str | None:
    """Return in one sentence why an experiment cannot run; None where it can.

    Args:
        experiment: any.
        out: folder of the runs, with the link ``data``.
        asked_for: it was named, and is run without a GPU too, however long that takes.
    """
    missing = missing_data(experiment, out)
    if missing is not None:
        return missing
    if experiment.gpu and not asked_for and gpu_name() is None:
        return f"it takes days without a GPU, and there is none; --only {experiment.name} runs it all the same"
    if experiment.kind == "detectron2":
        from faceexpr.detectron2.installed import require_detectron2

        try:
            require_detectron2()
        except FaceExprError as error:
            return str(error)
    for part in filter(None, (experiment.detector, experiment.classifier)):
        if not any((out / RUNS / part / "seed_0").rglob("best*.ckpt")):
            return f"it needs the checkpoint of {part}, which is not trained yet"
    return None


def missing_data(experiment: Experiment, out: Path) -> str | None:
    """Return in one sentence which data of an experiment are not there; None where they are.

    Args:
        experiment: any.
        out: folder of the runs, with the link ``data``.
    """
    data = out / "data"
    if experiment.data == "wider":
        for name in (WIDER_TRAIN, WIDER_VAL):
            if not (out / name).is_file():
                return f"{(data.resolve() / name.removeprefix('data/'))} does not exist; expected WIDER FACE there"
        return None
    from faceexpr.data.fer2013 import find_files

    try:
        find_files(str(data / "fer2013"))
    except FaceExprError as error:
        return str(error)
    if experiment.data == "ferplus":
        votes = ("ferplus/fer2013new.csv", "fer2013/fer2013new.csv")
        if not any((data / name).is_file() for name in votes):
            return (
                f"{data.resolve() / votes[1]} does not exist; expected FER+'s votes there, or in ferplus/ with images"
            )
        from experiments.paper.facts import both_labels

        try:
            both_labels(out)
        except FaceExprError as error:
            return str(error)
    return None
