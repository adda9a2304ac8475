"""Two "machines" on this one: namespaces of their own for network, host name and, by choice, a folder.

They are joined by a cable (a veth pair) and share nothing else of the network: what one listens on at 127.0.0.1 the
other cannot reach, as between real machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

INTERFACE = "eth0"
ADDRESSES = ("10.83.0.1", "10.83.0.2")
"""Of the first and of the second machine."""

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
NAMESPACES = {"net": CLONE_NEWNET, "uts": CLONE_NEWUTS, "mnt": CLONE_NEWNS}


@dataclass(frozen=True)
class Machine:
    """One of the two.

    Attributes:
        rank: 0 or 1.
        holder: process id whose namespaces are the machine's.
    """

    rank: int
    holder: int

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets: gloo would look the host name up, and no name server knows these two."""
        return {"GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1", "JSONARGPARSE_DEPRECATION_WARNINGS": "off"}

    @property
    def namespaces(self) -> dict[str, int]:
        """Files to enter it by, with the flag of each."""
        return {f"/proc/{self.holder}/ns/{name}": flag for name, flag in NAMESPACES.items()}

    def output(self, command: Sequence[str], given: bytes = b"") -> bytes:
        """Run a command on the machine and return what it prints."""
        inside = ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", "--", *command]
        return subprocess.run(inside, input=given, stdout=subprocess.PIPE, timeout=30, check=True).stdout

    def start(
        self, command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on the machine, in a process group of its own.

        Args:
            command: program and arguments.
            folder: where it runs, as the machine sees it.
            log: takes what it prints.
            environment: further variables.
        """
        # The folder is entered from inside: from outside, it would be the one below the machine's own.
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command]
        with log.open("wb") as output:
            return subprocess.Popen(
                ["nsenter", f"--target={self.holder}", "--net", "--uts", "--mount", "--", *inside],
                env={**os.environ, **self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


def torchrun(rank: int, port: int, processes: int, args: Sequence[str]) -> list[str]:
    """Return the command by which a user starts one of two machines.

    Args:
        rank: of the machine.
        port: on the first machine.
        processes: on each machine.
        args: of ``faceexpr``.
    """
    return [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--nproc_per_node={processes}",
        f"--node_rank={rank}", f"--master_addr={ADDRESSES[0]}", f"--master_port={port}", "-m", "faceexpr", *args,
    ]  # fmt: skip


def wait(running: Sequence[subprocess.Popen[bytes]], timeout: float) -> list[int | None]:
    """Return the exit codes; None where a command and what it has started had to be killed after the timeout."""
    end = time.monotonic() + timeout
    codes: list[int | None] = []
    for process in running:
        try:
            codes.append(process.wait(max(end - time.monotonic(), 0.1)))
        except subprocess.TimeoutExpired:
            codes.append(None)
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()
    return codes


@contextmanager
def two_machines(own_folder: Path | None = None) -> Iterator[list[Machine]]:
    """Give two machines, which are gone afterwards whatever happens: their namespaces end with their last process.

    Args:
        own_folder: a folder that each of them has for itself, empty; by default the file systems are shared.
    """
    if sys.platform != "linux":
        pytest.skip("network namespaces are Linux's")
    holders: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(2):
            holders.append(_holder(rank, own_folder))
        _join([holder.pid for holder in holders])
        yield [Machine(rank, holder.pid) for rank, holder in enumerate(holders)]
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.close()
            holder.stdout.close()


def _holder(rank: int, own_folder: Path | None) -> subprocess.Popen[bytes]:
    """Start the process that a machine exists by; it ends when the tests do, since nobody holds its input open then."""
    mount = f'mount -t tmpfs machine-{rank} "{own_folder}" && ' if own_folder is not None else ""
    script = f"hostname machine-{rank} && ip link set lo up && {mount}echo ready && exec cat"
    try:
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except FileNotFoundError as error:
        pytest.skip(f"two machines need unshare, nsenter and ip: {error}")
    assert holder.stdout is not None
    said = holder.stdout.readline().decode().strip()
    if said != "ready":
        holder.kill()
        holder.wait()
        pytest.skip(f"namespaces cannot be made here: {said}")
    return holder


def _join(pids: Sequence[int]) -> None:
    """Lay the cable. Its ends are made inside the machines, so that no name on this one can be taken already."""
    first, second = pids
    commands = [
        f"nsenter -t {first} -n ip link add {INTERFACE} type veth peer name {INTERFACE} netns {second}",
        *(
            f"nsenter -t {pid} -n ip {what}"
            for pid, address in zip(pids, ADDRESSES, strict=True)
            for what in (f"address add {address}/24 dev {INTERFACE}", f"link set {INTERFACE} up")
        ),
    ]
    for command in commands:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"two machines cannot be joined here: {done.stderr.strip()}")
