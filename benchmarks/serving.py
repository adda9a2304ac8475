r"""Many clients of `faceexpr serve` at once, beside the pipeline that it stands on.

    python benchmarks/serving.py [--images FOLDER] [--seconds 120] [--clients 8]

The pipeline analyses the same files by `FacePipeline.run` in a process of its own, before the service and after it, for
a quarter of the time each, so that other work on the machine slows both alike. Both have the same models, batches and
threads. The service is a process too, started by the command line; the clients are threads of this one, each with a
connection of its own that it keeps, and send the files in turns: what they cost is the service's to bear.

Prints images/s of both and their ratio, what an image takes of the processor in both (which says more where other work
shares the machine), the answers that were no 200, how long an answer took (median and 99 of 100), images in a batch,
and the resident memory of the service after each quarter.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from common.scenes import drawn
from jsonargparse import auto_cli

from faceexpr.utils.images import find_images

PIPELINE = """
import sys, time, torch
from itertools import cycle
from faceexpr import FacePipeline
seconds, threads, files = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
torch.set_num_threads(threads)
pipeline = FacePipeline()
[*pipeline.run(files[:8])]
start, used = time.perf_counter(), time.process_time()
for done, result in enumerate(pipeline.run(cycle(files)), 1):
    passed = time.perf_counter() - start
    if done % pipeline.batch_size == 1 and passed > seconds:  # results come by the batch: the last one has just begun
        break
done += pipeline.batch_size - 1
print(done / passed, (time.process_time() - used) / done)
"""


def measure_pipeline(files: Sequence[Path], seconds: float, threads: int) -> tuple[float, float]:
    """Return images/s of the pipeline alone, and the processor's seconds for an image."""
    command = [sys.executable, "-c", PIPELINE, str(seconds), str(threads), *map(str, files)]
    rate, used = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(rate), float(used)


def call(port: int, bodies: Sequence[bytes], places: count[int], end: float, seen: list[tuple[int, float]]) -> None:
    """Send files over one connection until the time is over, and note the status and seconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.perf_counter() < end:
        start = time.perf_counter()
        connection.request("POST", "/analyze", bodies[next(places) % len(bodies)])
        answer = connection.getresponse()
        answer.read()
        seen.append((answer.status, time.perf_counter() - start))
    connection.close()


def ask(port: int) -> dict[str, int]:
    """Return what the service says of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/health")
    found: dict[str, int] = json.loads(connection.getresponse().read())
    return found


def memory(process: int) -> float:
    """Return the resident memory of a process in MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(process: int) -> float:
    """Return the processor's seconds that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(files: Sequence[Path], seconds: float, clients: int, threads: int) -> None:
    """Compare both, and print it."""
    bodies = [file.read_bytes() for file in files]
    before = measure_pipeline(files, seconds / 4, threads)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "faceexpr", "serve", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().split()[0].rpartition(":")[2])
        seen: list[tuple[int, float]] = []
        call(port, bodies, count(), time.perf_counter() + 3, seen)  # warm
        seen.clear()
        batches, used = ask(port)["batches"], processor(server.pid)
        start, places = time.perf_counter(), count()
        end = start + seconds
        callers = [threading.Thread(target=call, args=(port, bodies, places, end, seen)) for _ in range(clients)]
        for caller in callers:
            caller.start()
        held = [memory(server.pid)]
        for quarter in range(1, 5):
            time.sleep(max(0.0, start + seconds * quarter / 4 - time.perf_counter()))
            held.append(memory(server.pid))
        for caller in callers:
            caller.join()
        rate = len(seen) / (time.perf_counter() - start)
        batches, used = ask(port)["batches"] - batches, (processor(server.pid) - used) / len(seen)
        server.terminate()
    after = measure_pipeline(files, seconds / 4, threads)
    taken = sorted(duration for _, duration in seen)
    wrong = Counter(status for status, _ in seen if status != 200)
    alone, alone_used = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    print(f"{clients} clients, {seconds:g} s, {len(files)} files, {threads} threads")
    rates = f"pipeline {before[0]:.2f} and {after[0]:.2f} images/s; service {rate:.2f}"
    print(f"{rates}; service / pipeline {rate / alone:.2f}")
    print(f"of the processor: pipeline {alone_used * 1e3:.0f} ms an image, service {used * 1e3:.0f}")
    print(f"{len(seen)} answers, other than 200: {dict(wrong) or 'none'}; {len(seen) / max(batches, 1):.1f} in a batch")
    print(f"an answer: median {statistics.median(taken):.2f} s, 99 of 100 within {taken[int(0.99 * len(taken))]:.2f} s")
    print("memory, MB: " + ", ".join(f"{value:.0f}" for value in held))


def main(images: Path | None = None, seconds: float = 120, clients: int = 8, threads: int = 1, most: int = 64) -> None:
    """Measure the service.

    Args:
        images: folder of photographs; drawn ones without it.
        seconds: of the service; the pipeline alone has a quarter before it and one after it.
        clients: that send at once.
        threads: of torch.
        most: at most so many photographs.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = find_images(images) if images else [scene.path for scene in drawn(Path(folder), 20, 0)]
        measure(files[:: max(1, len(files) // most)][:most], seconds, clients, threads)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
