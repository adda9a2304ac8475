"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI in subclass mode, extended at its documented seams."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from faceexpr import __version__
from faceexpr.callbacks.calibration import Calibrate
from faceexpr.callbacks.checkpointing import BestCheckpoint, EpochSeed, LastCheckpoint, WholeCheckpointIO
from faceexpr.callbacks.checks import RunChecks, check_batch_norm
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.evaluation import Evaluation, can_judge
from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.callbacks.progress import LineProgress, RateMonitor, SaveRunConfig, on_terminal
from faceexpr.callbacks.robustness import Robustness
from faceexpr.cli.known_classes import WRITTEN_OUT, default_classes, import_short_names
from faceexpr.cli.parser import Parser, bad_input, class_change_logger, is_written
from faceexpr.cli.written import last_folder, written_path
from faceexpr.data.base import FaceDataModule
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError
from faceexpr.utils.labels import FER_NAMES
from faceexpr.weights.checkpoints import find_checkpoint, newest_loadable, remembered, require_checkpoint

ADVERTISEMENT = "\N{ELECTRIC LIGHT BULB} Tip"

LOGGER_CLASS = "lightning.pytorch.loggers.TensorBoardLogger"
RUNS = "lightning_logs"
"""Folder of the runs, in ``trainer.default_root_dir`` where that is given."""
DEFAULT_LOGGER_OPTIONS = {"save_dir": RUNS, "name": "", "default_hp_metric": False}

# The best epoch is saved before the newest state, which then knows of it.
CONFIGURED: dict[str, type[Callback]] = {
    "checkpoint": BestCheckpoint,
    "last_checkpoint": LastCheckpoint,
    "lr_monitor": RateMonitor,
    "evaluation": ClassificationEvaluation,
    "detection_evaluation": DetectionEvaluation,
    "robustness": Robustness,
    "calibration": Calibrate,
    "predictions": PredictionWriter,
    "progress": LineProgress,
}
"""The callbacks that every run has, each with the name of its options in a configuration."""


class FaceExprCLI(LightningCLI):
    """Lightning's command line with this project's defaults.

    Args:
        args: the arguments, verb included.
        remembered: hyper-parameters of the checkpoint that the arguments name. They are defaults: what the user
            writes, in a file or a flag, comes before them.
        checkpoint: that checkpoint's file.
        callbacks: further callbacks that no configuration names.
    """

    def __init__(
        self,
        args: ArgsType,
        remembered: dict[str, Any] | None = None,
        checkpoint: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.remembered = remembered or {}
        self.defaults = default_classes([*args] if isinstance(args, list) else []) | {
            option: self.remembered[option] for option in ("model", "data") if option in self.remembered
        }
        self.checkpoint = checkpoint
        self.notes = class_change_logger(
            silent=self.remembered.get("data", {}).get("class_path"),
            unwritten={LOGGER_CLASS: DEFAULT_LOGGER_OPTIONS, **WRITTEN_OUT},
        )
        super().__init__(
            LightningModule,
            FaceDataModule,
            save_config_callback=SaveRunConfig,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": [EpochSeed(), RunChecks(), *callbacks],
                "logger": {"class_path": LOGGER_CLASS, "init_args": DEFAULT_LOGGER_OPTIONS},
            },
            parser_class=Parser,
            parser_kwargs={"prog": "faceexpr", "version": __version__},
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        return super().init_parser(logger=self.notes, **kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        skipped = {name: set(names) for name, names in LightningCLI.subcommands().items()}
        for names in skipped.values():
            names.add("weights_only")  # checkpoints are never unpickled, so there is nothing to choose
        # With these, a configuration that one verb has saved would not be understood by the others.
        skipped["validate"].add("verbose")
        skipped["test"].add("verbose")
        skipped["predict"].add("return_predictions")
        return skipped

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, callback in CONFIGURED.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("checkpoint.monitor", "evaluation.monitor")
        parser.link_arguments("checkpoint.monitor", "detection_evaluation.monitor")
        parser.link_arguments(
            "data.class_names", "model.init_args.class_names", self._model_class_names, apply_on="instantiate"
        )
        parser.set_defaults(self.defaults)

    def _model_class_names(self, data_class_names: Sequence[str]) -> list[str]:
        # A trained model's outputs keep their meaning, whatever the order of the classes in the data.
        return list(self.remembered.get("class_names", data_class_names))

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # a list, from `run`
        # Lightning merges a checkpoint's hyper-parameters over the user's; here they came in as defaults, and the
        # path is put back below.
        self.config[self.config.subcommand].ckpt_path = None

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config.ckpt_path = None if self.checkpoint is None else str(self.checkpoint)
        if self.subcommand != "fit":
            if self.checkpoint is None:
                raise require_checkpoint(str(self.subcommand), runs_folder(config.trainer))
            # Weights are measured as they are: whatever else went into their training need not be there again.
            warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`")
            warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback, but loading")
        if is_written(config.model, "class_names", FER_NAMES):
            raise FaceExprError("model.class_names is taken from data.class_names and cannot be given itself")
        logger = config.trainer.logger
        if getattr(logger, "class_path", "").endswith(".TensorBoardLogger"):
            # Lightning would write a placeholder of -1 in the place of the final metrics.
            logger.init_args.default_hp_metric = False
            if config.trainer.default_root_dir and logger.init_args.save_dir == RUNS:
                logger.init_args.save_dir = str(Path(config.trainer.default_root_dir) / RUNS)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        check_match(self.model, self.datamodule, str(self.subcommand))
        trainer = self.config_init[self.subcommand].trainer
        if trainer.max_epochs is None and getattr(self.model, "remembers", False):
            trainer.max_epochs = 1  # a second look at the same samples changes nothing
        callbacks = [*(trainer.callbacks or [])]
        if not on_terminal():
            # Bars redraw themselves with control characters, which flood a file; LineProgress stands in.
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
            kwargs["enable_progress_bar"] = False
        if trainer.enable_model_summary is not False:
            # The plain table; Lightning's default draws boxes where rich happens to be installed.
            kwargs["enable_model_summary"] = False
            if not any(isinstance(callback, ModelSummary) for callback in callbacks):
                callbacks.append(ModelSummary())
        trainer.callbacks = callbacks
        plugins = trainer.plugins if isinstance(trainer.plugins, list) else [trainer.plugins] * bool(trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            trainer.plugins = [*plugins, WholeCheckpointIO()]
        if trainer.enable_checkpointing is False:
            # The product's callbacks are always there; these are told to keep nothing.
            config = self.config_init[self.subcommand]
            config.checkpoint.save_top_k = config.last_checkpoint.save_top_k = 0
            kwargs["enable_checkpointing"] = True
            rank_zero_info("trainer.enable_checkpointing is false: no checkpoint is kept")
        built = super().instantiate_trainer(**kwargs)
        check_batch_norm(built, bool(trainer.sync_batchnorm))
        for callback in [*built.callbacks]:  # type: ignore[attr-defined]  # set at run time
            if isinstance(callback, Evaluation) and not can_judge(callback, self.model):
                built.callbacks.remove(callback)  # type: ignore[attr-defined]
        return built

    def fit(self, **kwargs: Any) -> None:
        # A path that is given to the call is not known yet when the model is set up, and would load its first weights.
        self.trainer.ckpt_path = kwargs.pop("ckpt_path", None)
        self.trainer.fit(**kwargs)

    def validate(self, **kwargs: Any) -> None:
        self.trainer.validate(verbose=False, **kwargs)

    def test(self, **kwargs: Any) -> None:
        self.trainer.test(verbose=False, **kwargs)

    def predict(self, **kwargs: Any) -> None:
        self.trainer.predict(return_predictions=False, **kwargs)

    def after_fit(self) -> None:
        checkpoint = self.trainer.checkpoint_callback
        if self.trainer.interrupted or not isinstance(checkpoint, BestCheckpoint) or not checkpoint.best_model_path:
            return
        score = checkpoint.best_model_score
        best = f"best {checkpoint.monitor} {float(score):.4f}: " if score is not None and checkpoint.monitor else ""
        rank_zero_info(f"{best}{checkpoint.best_model_path}")
        rank_zero_info(f"measure it with: faceexpr test --ckpt_path {checkpoint.best_model_path}")

    def after_predict(self) -> None:
        writers = [callback for callback in self.trainer.callbacks if isinstance(callback, PredictionWriter)]  # type: ignore[attr-defined]
        if any(writer.failed for writer in writers):
            raise SystemExit(SOME_FAILED)


def check_match(model: LightningModule, data: FaceDataModule, verb: str) -> None:
    """Refuse data for another kind of model.

    Raises:
        FaceExprError: faces for a detector, pictures for a classifier, or ``predict`` with a detector.
    """
    detects = getattr(model, "gives", data.suits) == "detections"
    if detects and verb == "predict":
        raise FaceExprError(
            f"{type(model).__name__} finds faces, which `faceexpr predict` does not write; expected `faceexpr analyze` "
            "or a classifier"
        )
    if detects != (data.suits == "detections"):
        wanted = (
            "pictures with boxes, such as FaceBoxes or SyntheticScenes"
            if detects
            else "faces with expressions, such as FER2013"
        )
        raise FaceExprError(f"--data is {type(data).__name__}, but {type(model).__name__} needs {wanted}")


def run(args: list[str], callbacks: Sequence[Callback] = ()) -> None:
    """Run one of Lightning's verbs.

    Args:
        args: the arguments, verb included.
        callbacks: further callbacks that no configuration names, and that the record of the run does not show.

    Raises:
        FaceExprError: bad input.
        SystemExit: bad options, inputs of ``predict`` that could not be read, SIGTERM or Ctrl-C.
    """
    import_short_names()
    _quiet()
    try:
        checkpoint = _checkpoint(args)
        FaceExprCLI(args, remembered(checkpoint) if checkpoint else None, checkpoint, callbacks)
    except SIGTERMException:
        raise SystemExit(PREEMPTED) from None
    except Exception as error:
        known = bad_input(error)
        if known is None:
            raise
        raise known from None
    except SystemExit as ending:
        # After Ctrl-C Lightning exits with 1. A command line that is only read may stand in such a context too.
        if ending.code == 1 and isinstance(ending.__context__, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from None
        raise


def _checkpoint(args: Sequence[str]) -> Path | None:
    """Return the checkpoint that a command line begins with."""
    written = written_path(args)
    if written is None:
        return None
    runs = last_folder(args, Path(RUNS))
    if written == "last" and "fit" in args and (found := newest_loadable(runs)) is None:
        # So that one command starts a training and, whenever it was interrupted, goes on with it.
        rank_zero_info(
            f"--ckpt_path is last, and there is no last.ckpt to go on from below {runs}: training starts anew"
        )
        return found
    return find_checkpoint(written, runs, resumes="fit" in args)


def _as_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as a user reads it, without the place in the source where it was raised."""
    return f"warning: {' '.join(str(message).split())}\n"


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    # A function of its own, which is added once however often `run` is called in a process.
    return not record.getMessage().startswith(ADVERTISEMENT)


def _thread_has_failed(failure: threading.ExceptHookArgs) -> None:
    """Show why a thread has ended, but for TensorBoard's, which cannot write: the main thread is told, and ends too."""
    if not type(failure.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failure)


def _quiet() -> None:
    """Show warnings as lines, and leave out what Lightning says to everybody and nobody here can act on."""
    warnings.formatwarning = _as_line
    warnings.filterwarnings("ignore", message=r"Total length of `BatchLoader` across ranks is zero")
    warnings.filterwarnings("ignore", module=r"lightning\.pytorch\.utilities\._pytree", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`LightningModule.configure_optimizers` returned `None`")
    # The best checkpoint of another run is no concern of this one.
    warnings.filterwarnings("ignore", message=r"The dirpath has changed from ")
    # As in a process that has had no sample in an epoch.
    warnings.filterwarnings("ignore", message=r"The ``compute`` method of metric \w+ was called before")
    # Nothing in it is overwritten but what is gone on from.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", message=r".*number of training batches .* smaller than the logging interval")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
    threading.excepthook = _thread_has_failed


def runs_folder(trainer: Any) -> Path:
    """Return the folder that the configured logger puts its runs into."""
    init_args = getattr(trainer.logger, "init_args", None)
    if init_args is None:
        return Path(trainer.default_root_dir or ".") / "lightning_logs"
    return Path(init_args.get("save_dir") or ".") / (init_args.get("name") or "")
