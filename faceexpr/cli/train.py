"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI in subclass mode, extended at its documented seams."""

from __future__ import annotations

import json
import logging
import os
import pkgutil
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import SUPPRESS, ActionFail, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import LearningRateMonitor, ModelSummary, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

import faceexpr.data
import faceexpr.models
import faceexpr.tasks
from faceexpr import __version__
from faceexpr.callbacks.calibration import Calibrate
from faceexpr.callbacks.checkpointing import BestCheckpoint, LastCheckpoint, WholeCheckpointIO
from faceexpr.callbacks.classification import ClassificationEvaluation
from faceexpr.callbacks.detection import DetectionEvaluation
from faceexpr.callbacks.predictions import PredictionWriter
from faceexpr.callbacks.record import RunRecord
from faceexpr.callbacks.reports import RunTensorBoardLogger
from faceexpr.callbacks.robustness import Robustness
from faceexpr.callbacks.runs import (
    EpochBar,
    EpochSeed,
    LineProgress,
    RunChecks,
    SaveRunConfig,
    check_batch_norm,
    on_terminal,
)
from faceexpr.callbacks.slices import Slices
from faceexpr.cli.help import BEGINNINGS, ClassHelp, choices, without_all
from faceexpr.cli.main import VERBS
from faceexpr.cli.parser import Parser, flat, name_option, naming_options, one_line, read_config
from faceexpr.data.base import FaceDataModule
from faceexpr.models.light_detector import LightDetector
from faceexpr.tasks.base import ExpressionTask, find_missing, without_missing
from faceexpr.tasks.detect import FaceDetector
from faceexpr.utils.configurations import find_config
from faceexpr.utils.errors import INTERRUPTED, PREEMPTED, SOME_FAILED, FaceExprError, of_file
from faceexpr.utils.files import say
from faceexpr.utils.redirects import redirect
from faceexpr.utils.specs import class_path, option_defaults
from faceexpr.utils.text import counted, nearest
from faceexpr.weights.checkpoints import example, find_checkpoint, find_last, list_runs, remembered, run_of

# The best epoch is saved before the newest state, which then knows of it.
CALLBACKS: dict[str, type[Callback]] = {
    "checkpoint": BestCheckpoint,
    "last_checkpoint": LastCheckpoint,
    "lr_monitor": LearningRateMonitor,
    "evaluation": ClassificationEvaluation,
    "detection_evaluation": DetectionEvaluation,
    "robustness": Robustness,
    "slices": Slices,
    "calibration": Calibrate,
    "predictions": PredictionWriter,
    "progress": LineProgress,
}
"""The callbacks of a run, each with the name of its options in a configuration."""

UNFIT = {
    "probabilities": ["detection_evaluation"],
    "detections": ["evaluation", "robustness", "calibration", "predictions"],
}
"""Those that a run does not have, by what its model ``gives``."""

MEASURING = ("-validate", "-test", "-predict")
"""What the names of runs end with that measure a checkpoint."""

RUNS = "lightning_logs"
"""Folder of the runs, in ``trainer.default_root_dir`` where that is given."""

DEFAULTS = {"model": "ExpressionClassifier", "data": "SyntheticFaces"}
"""The classes that are used where no other is named."""

LOGGER = ("=TensorBoardLogger", f".save_dir={RUNS}", ".name=", ".default_hp_metric=false")
"""The logger of runs that name none, as flags of ``--trainer.logger``."""

EPOCHS = 20
"""Length of a training for which none is given, neither in epochs nor in steps or hours."""

LINKS = {
    "evaluation.monitor": "checkpoint.monitor",
    "detection_evaluation.monitor": "checkpoint.monitor",
    "model.class_names": "data.class_names",
}
"""Options that nobody may give, each with the one that it is taken from."""

VALUE_CHECKERS = ("lightning.", "torch.optim.")
"""Modules that check values from the configuration by raising a ValueError, a RuntimeError or an ImportError."""

MODULE, CALLBACK = "torch.nn.modules.module", "lightning.pytorch.callbacks."
"""Modules that say which attribute a network does not have, and that use networks."""

NOTHING_NEW = (
    "Tip: ", "TPU available: ", "GPU available: False", "Running in `fast_dev_run` mode", "Restoring states from ",
    "`Trainer.fit` stopped: `max_", " was configured so ",
    "Seed set to ", "Initializing distributed: ", "LOCAL_RANK: ", "Automatic Mixed Precision (AMP)",
    "Found current_model_state in the checkpoint", "`weights_only` was not set", "to estimate number of stepping",
)  # fmt: skip
"""Parts of what Lightning logs of every run that tell what the options say, or what nobody here can act on."""

TELLERS = (
    "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed", "lightning.pytorch.accelerators.cuda",
    "lightning.fabric.utilities.distributed", "lightning.pytorch.trainer.connectors.checkpoint_connector",
)  # fmt: skip
"""Loggers that do."""

ONE_IN_A_STEP = "Expected more than 1 value per channel when training"
"""What torch's batch normalisation says of a batch of one."""


SECTIONS: dict[str, type] = {"model": LightningModule, "data": FaceDataModule, "trainer": Trainer, **CALLBACKS}
"""The class that each section of options takes."""

CKPT_PATH = """Checkpoint to go on from (fit) or to measure: a file, the folder of a run (its best checkpoint), the name
of a model that comes with faceexpr, such as fer2013_compact (to measure), or last (the newest state of the training
that the same command has started). Nothing is taken where nothing is given: fit starts anew, the others are refused."""


class TrainingParser(Parser, LightningArgumentParser):
    """Lightning's parser with our errors."""

    beginning = ""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        return self.beginning + super().format_help(*args, **kwargs)


class RunTrainer(Trainer):
    """Lightning's Trainer, to which a limit of 1 is one batch and 1.0 are all batches, whatever was imported before.

    Its own annotations are of ``typing.Union``, which gives out unions of the same types in the order in which somebody
    has first written them; where that is float and int, 1 is 1.0.

    Args:
        limit_train_batches: batches of an epoch (a whole number), or the part of them (0.0 to 1.0).
        limit_val_batches: likewise, of a validation.
        limit_test_batches: likewise, of a test.
        limit_predict_batches: likewise, of a prediction.
        overfit_batches: likewise, of training images that are trained on and validated on; 0 for all of both.
        val_check_interval: batches after which a validation follows, or a part of an epoch.
        **kwargs: of Lightning's.
    """

    def __init__(
        self,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            **kwargs,
        )


class FaceExprCLI(LightningCLI):
    """Lightning's command line with this project's defaults: parse the options, and build what they name.

    The options are parsed twice. The first parse only collects what is written, to find the checkpoint. What that
    remembers of its model and its data are the defaults of the second parse, so that whatever the user writes, in a
    file or a flag, comes before it.

    Args:
        verb: fit, validate, test or predict.
        args: the arguments after it.
        callbacks: further callbacks that no configuration names.
    """

    def __init__(self, verb: str, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.verb = verb
        self.args = args
        self.written = written_options(args)
        self.classes = ClassHelp(SECTIONS, DEFAULTS | {"trainer.logger": "TensorBoardLogger"} | self.written)
        for option, value in self.written.items():
            if option.endswith(".help"):
                say(self.classes.text(option.removesuffix(".help"), value, {*LINKS}))
                raise SystemExit(0)
        for target, source in LINKS.items():
            if target in self.written:
                raise FaceExprError(f"--{target} is taken from --{source} and cannot be given itself")
        self.checkpoint = _checkpoint(verb, args, self.written)
        self.remembered = {} if self.checkpoint is None else remembered(self.checkpoint)
        self.classes.chosen |= {**dict(flat(self.remembered)), **self.written}
        self._check_importable()
        name = self.written.get("model") or self.remembered.get("model", {}).get("class_path") or DEFAULTS["model"]
        model = model_class(str(name))
        self.unfit = UNFIT[getattr(model, "gives", "probabilities")]
        # A second look at the same samples changes nothing in a model that remembers them.
        self.epochs = 1 if getattr(model, "remembers", False) else EPOCHS
        if model is FaceDetector and "model" not in self.remembered and "model.net" not in self.written:
            # The net that it has by default, but whoever reads the configuration sees its name and its options.
            net = {"net": {"class_path": class_path(LightDetector)}}
            self.remembered["model"] = {"class_path": class_path(FaceDetector), "init_args": net}
        # Flags, not defaults of the parser: another class would take over the values of a default class's options.
        defaults = [f"--{option}={name}" for option, name in DEFAULTS.items() if option not in self.remembered]
        defaults += logger_flags(self.written)
        self.name = measured_name(verb, self.checkpoint, self.written, self.remembered)
        name, version = map(self.written.get, ("trainer.logger.name", "trainer.logger.version"))
        named = [f"--trainer.logger.name={self.name}"] if self.name and logger_flags(self.written) else []
        plain = isinstance(self.written.get("trainer.logger", ""), str)
        if not plain or version is not None or (name and not name.endswith(MEASURING)):
            named = []  # the user says where it goes; a configuration that such a run has saved does not
        with self.naming_nearest():
            super().__init__(
                LightningModule,
                FaceDataModule,
                save_config_callback=SaveRunConfig,
                save_config_kwargs={"save_to_log_dir": False},  # but to the run's folder
                seed_everything_default=0,
                trainer_class=RunTrainer,
                trainer_defaults={"callbacks": [EpochSeed(), RunChecks(), *callbacks]},
                parser_class=TrainingParser,
                parser_kwargs={
                    "prog": f"faceexpr {verb}",
                    "version": __version__,
                    "usage": f"faceexpr {verb} [OPTION VALUE ...]",
                    "description": None,
                    "left_out": self.unfit,  # which configurations saved by version 0.1 hold
                },
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                run=False,
                args=[*defaults, *redirect([*args]), *named],
            )

    @contextmanager
    def naming_nearest(self) -> Iterator[None]:
        """Say what may be meant where a class is unknown, an option is none of its class's, or a word follows none."""
        try:
            yield
        except FaceExprError as error:
            data = "FaceFiles --data.paths" if self.verb == "predict" else "FaceFolder --data.path"
            if word := re.search("unrecognized arguments: ([^-].*)", str(error)):
                if word[1].split()[0] in VERBS:
                    raise FaceExprError(f"{word[1]} begins with another verb; expected one") from error
                raise FaceExprError(f"{word[1]} follows no option; expected as in --data {data} {word[1]}") from error
            found = re.search(r"--([\w.]+?)\+? is (?:(\S+); expected a class|no option(?: of \w+)?)$", str(error))
            if found is None or found[1].partition(".")[0] not in SECTIONS:
                raise
            option, *names = str(found[1]).split("." if found[2] is None else None)  # or the whole takes a class
            while len(names) > 1 and names[0] in self.classes.options(option):
                option, *names = f"{option}.{names[0]}", *names[1:]
            known = choices(self.classes.kinds(option))
            if found[2]:
                if option == "data" and Path(found[2]).exists():
                    raise FaceExprError(f"{error}, as in --data {data} {found[2]}") from error
                near = nearest(found[2], known)
                said = str(error).removesuffix("; expected a class" if near else "")
                raise FaceExprError(f"{said}{near}; see --{option}.help") from error
            if others := [each for each, (base, _) in known.items() if names[0] in option_defaults(base)]:
                raise FaceExprError(f"{error}; expected --{option} {' or '.join(others)} with it") from error
            near, owner = nearest(names[0], self.classes.options(option)), self.classes.choose(option).base.__name__
            raise FaceExprError(f"{error}{near}; see --{option}.help {owner}") from error

    def _check_importable(self) -> None:
        """Refuse a checkpoint whose classes are missing here; without a training, its loss need not be there."""
        for section in DEFAULTS:
            if section not in self.remembered or section in self.written:
                continue
            described = self.remembered[section]
            options = described["init_args"] if self.verb == "fit" else without_missing(described["init_args"])
            if self.verb in ("validate", "test") and "loss" in described["init_args"].keys() - options.keys():
                loss = described["init_args"]["loss"]["class_path"]
                print(f"note: {loss} cannot be imported here, so the loss is cross-entropy", file=sys.stderr)
            self.remembered[section] = {**described, "init_args": options}
            kept = [value for name, value in options.items() if f"{section}.{name}" not in self.written]
            if missing := find_missing([{"class_path": described["class_path"]}, kept]):
                raise FaceExprError(f"{self.checkpoint} needs {missing}")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.beginning = f"{BEGINNINGS[self.verb]}\n"  # type: ignore[attr-defined]
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help=CKPT_PATH,
        )
        for name in [name for name in CALLBACKS if name not in self.unfit]:
            parser.add_lightning_class_args(CALLBACKS[name], name)
            if name.endswith("evaluation"):
                parser.link_arguments("checkpoint.monitor", f"{name}.monitor")
        # A trained model's outputs keep their meaning, whatever the order of the classes in the data.
        parser.link_arguments(
            "data.class_names",
            "model.init_args.class_names",
            lambda names: list(self.remembered.get("class_names") or names),
            apply_on="instantiate",
        )
        parser.set_defaults({option: self.remembered[option] for option in DEFAULTS if option in self.remembered})
        if self.verb == "fit" and not any(self.written.get(f"trainer.max_{unit}") for unit in ("steps", "time")):
            parser.set_defaults({"trainer.max_epochs": self.epochs})

    def before_instantiate_classes(self) -> None:
        config = self.config
        config.ckpt_path = None if self.checkpoint is None else str(self.checkpoint)
        if self.verb != "fit":
            if self.checkpoint is None:
                raise FaceExprError(
                    f"no weights to {self.verb}: name a checkpoint file or a run folder with --ckpt_path"
                    f"{example(run_place(config.trainer)[0])}"
                )
            # Weights are measured as they are: whatever else went into their training need not be there again.
            warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`")
            warnings.filterwarnings("ignore", message=r"You're using the WeightAveraging callback, but loading")
        logger = config.trainer.logger
        run_place(config.trainer)
        for each in logger if isinstance(logger, list) else [logger]:
            if getattr(each, "class_path", "").endswith(".TensorBoardLogger"):
                each.class_path = class_path(RunTensorBoardLogger)
                # Lightning would write a placeholder of -1 in the place of the final metrics.
                each.init_args.default_hp_metric = False
        version = str(self.written.get("trainer.logger.version"))
        if version.isdecimal() and (number := str(int(version))) != version:
            raise FaceExprError(
                f"--trainer.logger.version is {version}; expected {number}, or a name such as v{version}"
            )
        if logger is False:
            config.pop("lr_monitor")  # which Lightning refuses
            self.parser.callback_keys.remove("lr_monitor")
        # What is written for the other kind of model is left out; a configuration of 0.1 has the defaults of both.
        defaults = {
            f"{section}.{name}": default
            for section in self.unfit
            for name, default in option_defaults(CALLBACKS[section]).items()  # type: ignore[arg-type]  # as in specs.py
        }
        lost = [name for name, default in defaults.items() if self.written.get(name, default) != default]
        kind = config.model.class_path.rpartition(".")[2]
        notes = [f"{kind} has no use for {', '.join(lost)}; left out"] if lost else []
        for note in notes + dropped_options(self.written, config):
            print(f"note: {note}", file=sys.stderr)
        trainer = config.trainer
        endless = trainer.max_epochs is None and trainer.max_steps == -1 and trainer.max_time is None
        if self.verb == "fit" and (endless or (trainer.max_epochs is None and self.epochs == 1)):
            trainer.max_epochs = self.epochs  # null in a configuration that an earlier version has saved

    def instantiate_classes(self) -> None:
        with self.explained():
            super().instantiate_classes()
        if "crop" in self.remembered and isinstance(self.model, ExpressionTask):  # before the data are read
            self.model.use_crop(self.remembered["crop"])
        self.datamodule.trained_on = self.remembered.get("data", {}).get("init_args", {}).get("path")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        check_match(self.model, self.datamodule, self.verb)
        options = self.config_init.trainer
        if any(word in str(self.config.trainer.strategy) for word in ("spawn", "fork", "notebook")):
            reason = "starts processes to which what a command line has built cannot be sent, or from which it cannot"
            raise FaceExprError(f"--trainer.strategy {reason} come back; expected ddp, which runs the command in each")
        runs = Path(options.default_root_dir or ".") / RUNS / self.name
        self.record = RunRecord([self.verb, *self.args], identity(self.written), runs)
        callbacks = options.callbacks or []
        callbacks = [self.record, *(callbacks if isinstance(callbacks, list) else [callbacks])]
        if not on_terminal():
            # Bars redraw themselves with control characters, which flood a file; LineProgress stands in.
            callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
            kwargs["enable_progress_bar"] = False
        elif options.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
            callbacks.append(EpochBar())
        if options.enable_model_summary is not False:
            # The plain table; Lightning's default draws boxes where rich happens to be installed.
            kwargs["enable_model_summary"] = False
            if not any(isinstance(callback, ModelSummary) for callback in callbacks):
                callbacks.append(ModelSummary())
        plugins = options.plugins if isinstance(options.plugins, list) else [options.plugins] * bool(options.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, WholeCheckpointIO()]
        if options.enable_checkpointing is False:
            kwargs["enable_checkpointing"] = None  # Lightning refuses callbacks that keep checkpoints, which ours are
        trainer = super().instantiate_trainer(**kwargs, callbacks=callbacks)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set at run time
            if isinstance(callback, DetectionEvaluation):
                callback.limits = "--model.net.suppression.max_faces", "--detection_evaluation.max_detections"
        if options.enable_checkpointing is False:
            for callback in trainer.checkpoint_callbacks:
                callback.save_top_k = 0  # type: ignore[attr-defined]
            rank_zero_info("trainer.enable_checkpointing is false: no checkpoint is kept")
        check_devices(trainer, options.accelerator)
        check_batch_norm(trainer, bool(options.sync_batchnorm))
        # The model asks for it in `setup`, and leaves its first weights alone where a checkpoint brings others.
        trainer.ckpt_path = self.config.ckpt_path
        if trainer.is_global_zero and not options.fast_dev_run:
            self.record.check(trainer)  # before a logger begins to write there
        return trainer

    def execute(self) -> None:
        """Train, measure or predict.

        Raises:
            FaceExprError: bad input.
            SystemExit: inputs of ``predict`` that could not be read, or Ctrl-C.
        """
        trainer: Any = self.trainer
        options = {"model": self.model, "datamodule": self.datamodule}
        more = {"fit": {}, "predict": {"return_predictions": False}}.get(self.verb, {"verbose": False})
        for note in self._unasked() if self.verb == "fit" else ():
            rank_zero_info(f"note: {note}")
        try:
            with self.explained():
                getattr(trainer, self.verb)(**options, **more)
        except BaseException:
            self.record.discard()
            raise
        if self.verb == "fit":
            self._report_best()
        if any(isinstance(callback, PredictionWriter) and callback.failed for callback in trainer.callbacks):
            raise SystemExit(SOME_FAILED)

    def _unasked(self) -> Iterator[str]:
        """Yield what this training does that nobody has asked for."""
        if "data" not in self.written and "data" not in self.remembered:
            own = "--data FaceFolder --data.path FOLDER names images of your own"
            yield f"no --data is given: this training is on drawn faces (SyntheticFaces); {own}"
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            yield "trainer.fast_dev_run is on: a few batches are tried, and nothing is saved"
        if self.trainer.max_epochs == self.epochs and self.written.get("trainer.max_epochs") is None:
            yield f"no --trainer.max_epochs is given: this training has {counted(self.epochs, 'epoch')}"

    def _report_best(self) -> None:
        checkpoint = next((one for one in self.trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)), None)
        if self.trainer.interrupted or checkpoint is None or not checkpoint.best_model_path:
            return
        score, monitor = checkpoint.best_model_score, checkpoint.monitor
        best = f"best {monitor} {float(score):.4f}" if monitor and score is not None else "the last epoch"
        rank_zero_info(f"{best}: {checkpoint.best_model_path}")
        rank_zero_info(f"measure it with: faceexpr test --ckpt_path {shlex.quote(checkpoint.best_model_path)}")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise what a user can do something about as an error in one sentence that names the option."""
        try:
            yield
        except Exception as error:
            known = bad_input(error)
            if known is None:
                raise
            raise name_option(known, self.config) from None


def check_devices(trainer: Trainer, accelerator: str) -> None:
    """Ask back, with a `FaceExprError`, where several devices are named, not of which kind, and there is but a CPU."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started = environment is not None and environment.creates_processes_externally  # by torchrun or SLURM
    number, on_cpu = trainer.num_devices, isinstance(trainer.accelerator, CPUAccelerator)
    if accelerator == "auto" and on_cpu and number > 1 and not started:
        raise FaceExprError(
            f"--trainer.devices is {number}, and this machine has no GPU that torch can use, but "
            f"{counted(os.cpu_count() or 1, 'CPU core')}; expected --trainer.devices 1, or --trainer.accelerator cpu "
            f"beside it for {number} processes on the CPU"
        )


def model_class(name: str) -> Any:
    """Return the model's class of an import path, or of a name alone that is known; None where there is none."""
    if "." not in name:
        classes = [LightningModule]
        for each in classes:
            classes += each.__subclasses__()
        return next((each for each in classes if each.__name__ == name), None)
    try:
        return pkgutil.resolve_name(redirect(name))
    except (ImportError, AttributeError, ValueError):  # which the parser will say
        return None


class Flag(ActionFail):
    """Keep the flags of one name, ``--model``, and of all below it, ``--model.net.dropout``, as they are written.

    Of jsonargparse's actions, only that which refuses an option gets those below it without looking at a class.

    Args:
        flags: list that gets each flag's name and value, in the order of the command line.
        **kwargs: of argparse's actions.
    """

    def __init__(self, flags: list[tuple[str, Any]], **kwargs: Any) -> None:
        super(ActionFail, self).__init__(**kwargs | {"default": SUPPRESS, "nargs": "?"})
        self.flags = flags

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        *_, value, option = args
        text = value or ""  # of a flag such as --data.help
        special = text[:1] in ("", "{") or text.lower() in ("null", "false")
        self.flags.append((option.lstrip("-"), yaml.safe_load(text) if special else text))


def written_options(args: Sequence[str]) -> dict[str, Any]:
    """Return the options that a command line and its configuration files give, by their dotted names.

    Nothing is checked and no class is looked at; values of flags are texts. Where the arguments are wrong, nothing is
    returned: whoever parses them for good says what is wrong.

    Raises:
        FaceExprError: a configuration file does not hold options.
    """
    flags: list[tuple[str, Any]] = []
    groups = ("model", "data", "trainer", *CALLBACKS)
    parser = Parser(add_help=False, print_config=None)
    parser.add_argument("-c", "--config", action=Flag, flags=flags)
    for name in ("ckpt_path", "seed_everything", *groups):
        parser.add_argument(f"--{name}", action=Flag, flags=flags)
    parser.add_argument("--print_config", nargs="?")
    parser.add_argument("-h", "--help", "--version", action="store_true")
    try:
        parser.parse_args(args)
    except (FaceExprError, yaml.YAMLError):
        return {}
    written: dict[str, Any] = {}
    for flag, given in flags:
        if flag in ("c", "config"):
            options = read_config(find_config(given))
        else:
            is_file = flag in groups and isinstance(given, str) and Path(given).is_file()
            options = {flag: read_config(Path(given)) if is_file else given}
        for name, value in flat(options):
            if value is None or value is False:  # nothing is left of what it held
                written = {key: kept for key, kept in written.items() if not key.startswith(f"{name}.")}
            written[name] = value
    return written


def dropped_options(written: Mapping[str, Any], config: Namespace) -> list[str]:
    """Return a note for each class that does not have options which were written for another class in its place.

    Args:
        written: as `written_options` returns them.
        config: all options, as they are used.
    """
    used = dict(flat(config.as_dict()))
    dropped: dict[str, list[str]] = {}
    for name, value in written.items():
        holder = name
        while holder not in used and "." in holder:
            holder = holder.rpartition(".")[0]
        if holder != name and isinstance(used.get(holder), str):
            dropped.setdefault(holder, []).append(f"{name.removeprefix(f'{holder}.')} {value}")
    return [
        f"{holder} is {used[holder].rpartition('.')[2]}, which does not have these options; they are dropped: "
        f"{', '.join(options)}"
        for holder, options in dropped.items()
    ]


def _checkpoint(verb: str, args: Sequence[str], written: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint that a command line begins with."""
    name = written.get("ckpt_path")
    if name is None:
        return None
    with naming_options(Namespace(ckpt_path=name)):  # type: ignore[no-untyped-call]
        if name != "last":
            return find_checkpoint(str(name), Path(RUNS), resumes=verb == "fit")
        config = trainer_options(args, written)
        runs, named = run_place(config.trainer)
        if verb != "fit":
            return find_checkpoint(name, runs)
        found = list_runs(runs, "" if named else "*/")
        if not found and config.last_checkpoint.dirpath:  # which a run of version 0.1 says nowhere
            found = list_runs(Path(config.last_checkpoint.dirpath), "")
        checkpoint = find_last(found, options=None if named else identity(written))
        if checkpoint is None:
            # So that one command starts a training and, whenever it was interrupted, goes on with it.
            rank_zero_info(
                f"--ckpt_path is last, and there is no last.ckpt to go on from below {runs}: training starts anew"
            )
        return checkpoint


def trainer_options(args: Sequence[str], written: Mapping[str, Any]) -> Namespace:
    """Return those options of a command line that say where its run goes, parsed as they will be."""
    others = sorted({name.partition(".")[0] for name in written} - {"trainer", "last_checkpoint"})
    parser = TrainingParser(left_out=others, add_help=False, print_config=None)
    parser.add_argument("-c", "--config", action="config")
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
    for name in others:
        parser.add_argument(f"--{name}", action=Flag, flags=[])
    parser.add_argument("--print_config", nargs="?")
    parser.add_argument("-h", "--help", "--version", action="store_true")
    return parser.parse_args([*logger_flags(written), *redirect([*args])])


def logger_flags(written: Mapping[str, Any]) -> list[str]:
    """Return the options of the usual logger; none where another kind is written, whose folder is its own affair."""
    kind = written.get("trainer.logger", "")
    usual = ("", "TensorBoardLogger", RunTensorBoardLogger.__name__, "CSVLogger")
    ours = not isinstance(kind, str) or kind.rpartition(".")[2] in usual
    return [f"--trainer.logger{option}" for option in LOGGER] if ours else []


def measured_name(verb: str, checkpoint: Path | None, written: Mapping[str, Any], remembered: Mapping[str, Any]) -> str:
    """Return the name of a run that measures: whose checkpoint, on which data where they are others, what it does.

    That of ``lightning_logs/mine/version_0`` on `FERPlus` is ``mine-v0-FERPlus-test``; a training has none.
    """
    if checkpoint is None or verb == "fit":
        return ""
    run = run_of(checkpoint.absolute())
    name = run.name if checkpoint.parent.name == "checkpoints" else checkpoint.stem
    if name.startswith("version_") and run.parent.name != RUNS:
        name = f"{run.parent.name}-v{name.removeprefix('version_')}"
    own = remembered.get("data", {}).get("class_path", "").rpartition(".")[2]
    data = str(written.get("data") or own).rpartition(".")[2]
    return "-".join((name, verb) if data == own else (name, data, verb))


def run_place(trainer: Namespace) -> tuple[Path, bool]:
    """Return the folder that a run goes into, or the run's own where it has a name (True).

    A logger that writes to the folder of runs that is usual does so in ``default_root_dir``.

    Args:
        trainer: its options, in which that folder is changed.
    """
    root = Path(trainer.default_root_dir or ".")
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in loggers:
        kind = pkgutil.resolve_name(logger.class_path) if hasattr(logger, "class_path") else None
        if isinstance(kind, type) and issubclass(kind, TensorBoardLogger | CSVLogger):
            options = logger.init_args
            if logger is trainer.logger and trainer.default_root_dir and options.save_dir == RUNS:
                options.save_dir = str(root / RUNS)
            runs = Path(os.path.expandvars(options.save_dir)).expanduser() / (options.name or "")
            version = options.version
            named = version if isinstance(version, str) else f"version_{version}"
            return (runs, False) if version is None else (runs / named, True)
    return root / RUNS, False


def identity(written: Mapping[str, Any]) -> dict[str, str]:
    """Return what a command line says of its model, data and seed, by dotted names."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in sorted(written.items())
        if name.partition(".")[0] in ("model", "data", "seed_everything")
    }


def check_match(model: LightningModule, data: FaceDataModule, verb: str) -> None:
    """Refuse data for another kind of model.

    Raises:
        FaceExprError: faces for a detector, images with boxes for a classifier, or ``predict`` with a detector.
    """
    detects = getattr(model, "gives", data.suits) == "detections"
    name = type(model).__name__
    if detects and verb == "predict":
        raise FaceExprError(
            f"{name} finds faces, which `faceexpr predict` does not write; expected `faceexpr analyze` or a classifier"
        )
    if detects != (data.suits == "detections"):
        faces, scenes = "faces with expressions, such as FER2013", "images with boxes, such as FaceBoxes"
        raise FaceExprError(f"--data is {type(data).__name__}, but {name} needs {scenes if detects else faces}")


def bad_input(error: Exception) -> FaceExprError | None:
    """Return what a user can do something about in an error of a run; None where it is a defect."""
    causes: list[BaseException] = [error]
    # jsonargparse gathers what constructors raise and raises that it could build nothing.
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, FaceExprError):
            return cause
    origin = causes[-1]
    if isinstance(origin, OSError) and origin.filename is not None:
        return of_file(origin)
    if str(origin).startswith(ONE_IN_A_STEP):
        return FaceExprError(
            "batch normalisation has nothing to compare where a step has one image for a process; expected "
            "data.batch_size of at least 2, and data.global_batch_size of at least 2 for each process"
        )
    frames = [frame for frame, _ in traceback.walk_tb(origin.__traceback__)]
    modules = [frame.f_globals["__name__"] for frame in frames]
    raised_by = modules[-1] if modules else ""
    # Lightning's callbacks take for granted what a model of one kind has and one of another has not.
    callbacks = [frame for frame, name in zip(frames, modules, strict=True) if name.startswith(CALLBACK)]
    asked_by = next((name for name in reversed(modules) if name != MODULE), "")
    if isinstance(origin, AttributeError) and callbacks and asked_by.startswith("lightning."):
        name = type(callbacks[0].f_locals.get("self")).__name__
        return FaceExprError(f"{name} cannot be used with this model: {' '.join(str(origin).split())}")
    if raised_by.startswith(("jsonargparse.", "yaml.")):
        return FaceExprError(one_line(str(error), error))
    checked = isinstance(origin, ValueError | RuntimeError | ImportError) and raised_by.startswith(VALUE_CHECKERS)
    checked = checked or (isinstance(origin, TypeError) and raised_by.startswith("lightning.fabric.accelerators."))
    if checked or isinstance(origin, MisconfigurationException):
        return FaceExprError(" ".join(str(origin).split()))
    return None


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
    quieten_libraries()
    args = without_all(args)
    try:
        FaceExprCLI(args[0], args[1:], callbacks).execute()
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


def import_short_names() -> None:
    """Import every module of data, models and tasks, so that the names of their classes are understood alone."""
    for package in (faceexpr.data, faceexpr.models, faceexpr.tasks):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def _says_something_new(record: logging.LogRecord) -> bool:
    # A function of its own, which is added once however often `run` is called in a process.
    return not any(part in record.getMessage() for part in NOTHING_NEW)


def quieten_libraries() -> None:
    """Leave out what Lightning says to everybody and nobody here can act on."""
    for message in (
        "Total length of `BatchLoader` across ranks is zero",
        "`LightningModule.configure_optimizers` returned `None`",
        # The best checkpoint of another run is no concern of this one.
        "The dirpath has changed from ",
        # As in a process that has had no sample in an epoch.
        r"The ``compute`` method of metric \w+ was called before",
        # Nothing in it is overwritten but what is gone on from.
        "Checkpoint directory .* exists and is not empty",
        ".*number of training batches .* smaller than the logging interval",
        "Precision .* is not supported by the model summary",
        # What `main` was given is what the process was given, or it is called from Python.
        "LightningCLI's args parameter is intended to run from within Python",
        "`isinstance.treespec, LeafSpec.` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in TELLERS:
        logging.getLogger(name).addFilter(_says_something_new)
