"""Several processes begin together and end together, and what made one of them end is said once."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from faceexpr.callbacks.board import Board
from faceexpr.callbacks.launched import check_count, launched
from faceexpr.utils.errors import BAD_INPUT, PROCESS_LOST, FaceExprError
from faceexpr.utils.files import digest

START = 300.0
"""Seconds within which all processes have to be there. What starts them starts them together."""
ARRIVAL, PATIENCE = 20.0, 2.0
"""Seconds that an ending process waits for others to read why: for those still to come, and for those there."""
POLL, GRACE = 1.0, 5.0
"""Seconds between two looks at the board, and after which a process ends that another's end has not reached."""

READY, PROBLEM, DONE = "ready", "problem", "done"
LOST = re.compile(r"\bgloo\b|NCCL|Connection (closed|reset|refused)|Broken pipe|TCPStore|Timed out wait", re.IGNORECASE)
"""What torch says where another process is gone."""


@dataclass(frozen=True)
class Problem:
    """Why a process ends.

    Attributes:
        rank: of the process.
        host: its machine.
        sentence: for the user.
        code: its exit code.
    """

    rank: int
    host: str
    sentence: str
    code: int


class StoppedError(FaceExprError):
    """Another process cannot go on, so this one does not begin."""


class Together(Callback):
    """Let no process of a run wait for one that has ended, and none repeat what another has said.

    Every process tells the others what makes it end before it ends, and looks once a second whether another has. What
    several find alike, such as an option that is wrong, is said by the first of each terminal: ``torchrun`` has one on
    each machine, SLURM one for all.

    Raises:
        FaceExprError: the other processes cannot be reached.
    """

    def __init__(self) -> None:
        self._board: Board | None = None
        self._terminal = range(1)
        self._devices = 1
        self._started = False
        self._lost = False
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None
        self._heard: list[Problem] = []
        environment = launched()
        if environment is not None and environment.world_size() > 1 and not _restarts_on_several_machines():
            self._connect(environment)

    def _connect(self, environment: ClusterEnvironment) -> None:
        rank, count = environment.global_rank(), environment.world_size()
        if isinstance(environment, TorchElasticEnvironment):
            first = rank - environment.local_rank()
            self._terminal = range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        else:
            self._terminal = range(count)
        address, port = environment.main_address, environment.main_port
        keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            self._use(Board(address, port, rank, count, keeps, START))
        except RuntimeError as error:
            raise FaceExprError(
                f"process {rank} on {socket.gethostname()} cannot reach process 0 at {address}, port {port}; expected "
                "it to run there, and no firewall in between"
            ) from error

    def _use(self, board: Board) -> None:
        self._board = board
        self._watcher = threading.Thread(target=self._watch, args=(board,), daemon=True)
        self._watcher.start()

    def _join(self) -> None:
        """Use the connection of processes that Lightning has started, once there is one."""
        if self._board is not None or not torch.distributed.is_initialized() or launched() is not None:
            return
        rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
        first = rank - int(os.environ.get("LOCAL_RANK", "0"))
        self._terminal = range(first, first + self._devices)
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._started = True
        try:
            self._use(Board(address, port, rank, count, keeps=rank == 0, timeout=PATIENCE))
        except RuntimeError:
            self._lost = rank > 0  # with process 0, who has this terminal too

    def start(self, checkpoint: Path | None, devices: int) -> None:
        """Wait until all processes are ready to begin, with the same.

        Args:
            checkpoint: to go on from, or to measure.
            devices: number of processes on this machine.

        Raises:
            FaceExprError: one of them is not ready, or has another checkpoint.
        """
        self._devices = devices
        board = self._board
        if board is None:
            return
        mark = _beginning(checkpoint)
        board.write(READY, mark)
        marks = board.gather(READY, START)
        if board.marked(PROBLEM):
            raise StoppedError("another process cannot begin")
        self._started = True
        if None in marks:
            raise FaceExprError(
                f"process {marks.index(None)} of {board.count} has not come within {START:.0f} seconds; expected all "
                "to be started at the same time (by srun, in a job of SLURM)"
            )
        if mark != marks[0]:
            raise FaceExprError(
                f"process {board.rank} on {socket.gethostname()} would start {mark}, but process 0 {marks[0]}; "
                "expected the same checkpoint on all machines"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size == 1:
            return
        self._join()
        self._started = True
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it at run time
        sizes = {name: len(split) for name, split in getattr(datamodule, "splits", {}).items()}
        expected = trainer.strategy.broadcast(sizes)
        for name, size in sizes.items():
            if size != expected.get(name):
                raise FaceExprError(
                    f"process {trainer.global_rank} on {socket.gethostname()} has {size} samples in the {name} split, "
                    f"but process 0 has {expected.get(name)}; expected the same data on all machines"
                )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._join()  # Lightning takes the connection down before anybody hears of the exception

    def last_words(self, error: Exception, known: FaceExprError | None) -> FaceExprError | None:
        """Tell the others why this process ends, and return what it has to say itself.

        Args:
            error: what was raised.
            known: the same for the user; None where it is a defect.

        Returns:
            What to print; None where the error itself is to be raised.

        Raises:
            SystemExit: another process says it.
        """
        self._join()
        board = self._board
        if board is None:
            if self._lost:
                raise SystemExit(PROCESS_LOST)
            return known
        self._over.set()
        if isinstance(known, StoppedError) or (known is None and LOST.search(str(error))):
            return self._because_of_others(board)
        return self._because_of_own(board, error, known)

    def leave(self) -> None:
        """Look no more whether another process has ended."""
        self._over.set()
        if self._watcher is not None:
            # A thread that is still within torch when Python ends would abort the process.
            self._watcher.join(GRACE)
        if self._board is not None:
            self._board.write(DONE, "")
            if self._board.keeps:
                # Nobody could read the board once this process has ended, which this thread, no daemon, delays.
                threading.Thread(target=self._keep, args=(self._board,)).start()

    def _because_of_own(self, board: Board, error: Exception, known: FaceExprError | None) -> FaceExprError | None:
        """Tell of a problem of this process, and return it where the first one of the terminal has no such problem."""
        sentence, code = (f"{type(error).__name__}: {error}", 1) if known is None else (str(known), BAD_INPUT)
        problem = Problem(board.rank, socket.gethostname(), sentence, code)
        board.write(PROBLEM, json.dumps(asdict(problem)))
        board.mark(PROBLEM)
        board.write(READY, "")
        leader = self._terminal[0]
        if board.rank != leader:
            board.read(PROBLEM, leader, PATIENCE if self._started else ARRIVAL)
            # The board may be gone by now, where the leader knows that this process has heard of its problem.
            told = [*self._heard, *_problems(board)]
            if any((other.rank, other.sentence) == (leader, sentence) for other in told):
                raise SystemExit(code)
        return known

    def _because_of_others(self, board: Board) -> FaceExprError | None:
        """Return what to say of another process's problem, where its own words are not on this terminal."""
        problems = self._heard or _problems(board)
        if self._has_said(board, problems):
            raise SystemExit(problems[0].code if problems else PROCESS_LOST)
        if problems:
            return FaceExprError(_reported(problems[0], board))
        print(
            "error: another process of this run was lost, killed or with its machine; what was saved last is kept, and "
            "the same command with --ckpt_path last goes on from there",
            file=sys.stderr,
        )
        raise SystemExit(PROCESS_LOST)

    def _has_said(self, board: Board, problems: list[Problem]) -> bool:
        return board.rank != self._terminal[0] or any(problem.rank in self._terminal for problem in problems)

    def _watch(self, board: Board) -> None:
        """End this process where another has told that it ends, and this one does not notice: it may wait for it."""
        while not self._over.wait(POLL):
            if board.marked(PROBLEM):
                self._heard = _problems(board)
                board.write(DONE, "")
                if self._over.wait(GRACE) or not self._heard:
                    return
                if not self._has_said(board, self._heard):
                    print(f"error: {_reported(self._heard[0], board)}", file=sys.stderr)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(self._heard[0].code)

    def _keep(self, board: Board) -> None:
        """Wait until the others have read the board."""
        end = time.monotonic() + (PATIENCE if self._started else ARRIVAL)
        for rank in range(board.count):
            board.read(DONE, rank, max(end - time.monotonic(), 0.01))


def begin_together(trainer: Trainer, checkpoint: Path | None) -> None:
    """Wait for the other processes of a run, all of which have to begin with the same.

    Args:
        trainer: as configured.
        checkpoint: to go on from, or to measure.

    Raises:
        FaceExprError: they are not as many as the options say, one of them cannot begin, or their checkpoints differ.
    """
    check_count(trainer)
    for callback in [*trainer.callbacks]:  # type: ignore[attr-defined]  # Lightning sets the list at run time
        if isinstance(callback, Together):
            callback.start(checkpoint, trainer.num_devices)


def _restarts_on_several_machines() -> bool:
    # Machines count their attempts each for itself, and could not agree on which notes are of this one.
    several = int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1
    return several and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def _problems(board: Board) -> list[Problem]:
    """Return what the processes have told so far, by rank."""
    return [Problem(**json.loads(note)) for note in board.gather(PROBLEM, 0) if note]


def _reported(problem: Problem, board: Board) -> str:
    return f"process {problem.rank} of {board.count} on {problem.host} has ended: {problem.sentence}"


def _beginning(checkpoint: Path | None) -> str:
    return "without a checkpoint" if checkpoint is None else f"from a checkpoint with SHA-256 {digest(checkpoint)[:16]}"
