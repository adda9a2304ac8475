"""A board on which the processes of a run leave notes, also before they are connected and while one of them ends."""

from __future__ import annotations

import os
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # of torch's C++ part


class Board:
    """Short texts by key, kept by the first process or by ``torchrun``, read and written by all.

    It is the store by which torch connects the processes, under names of our own.

    Args:
        address: of the machine that keeps it.
        port: on that machine.
        rank: of this process among all.
        count: number of all processes.
        keeps: keep it in this process.
        timeout: seconds to wait for a board that is not there yet.

    Raises:
        torch.distributed.DistError: it cannot be reached.
    """

    def __init__(self, address: str, port: int, rank: int, count: int, keeps: bool, timeout: float) -> None:
        self.rank = rank
        self.count = count
        self.keeps = keeps
        # Torch will ask for the same address when it connects the processes: `multi_tenant` lets both have it.
        store = TCPStore(
            address, port, count, is_master=keeps, timeout=timedelta(seconds=timeout), multi_tenant=True,
            wait_for_workers=False,
        )  # fmt: skip
        # `torchrun` keeps one store for all its attempts; what an earlier one has left says nothing of this one.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"faceexpr-{attempt}", store)

    def write(self, key: str, text: str) -> None:
        """Leave this process's note; nothing is done where the board is gone."""
        try:
            self._store.set(f"{key}/{self.rank}", text)
        except RuntimeError:
            return

    def mark(self, key: str) -> None:
        """Leave a mark that is nobody's own."""
        try:
            self._store.set(key, "")
        except RuntimeError:
            return

    def marked(self, key: str) -> bool:
        """Tell whether somebody has left the mark; no more than one request, however many processes there are."""
        try:
            return bool(self._store.check([key]))
        except RuntimeError:
            return False

    def read(self, key: str, rank: int, wait: float = 0) -> str | None:
        """Return a process's note; None where it has left none, or the board is gone.

        Args:
            key: of the note.
            rank: of the process.
            wait: seconds to wait for it.
        """
        name = f"{key}/{rank}"
        try:
            if wait:
                self._store.wait([name], timedelta(seconds=wait))
            return self._store.get(name).decode() if self._store.check([name]) else None
        except RuntimeError:  # of the wait as well
            return None

    def gather(self, key: str, wait: float) -> list[str | None]:
        """Return the notes of all processes, waiting so many seconds for each."""
        return [self.read(key, rank, wait) for rank in range(self.count)]
