"""Video files, cameras and streams: decode frames, join faces to tracks, smooth expressions, write what was found."""

from __future__ import annotations

import heapq
import json
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import chain, tee
from math import exp, floor, inf
from operator import itemgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faceexpr.pipeline.analysis import draw_faces
from faceexpr.pipeline.detectors import GroundTruth
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.pipeline.records import PARTS, PICTURES, RECORDS, ImageResult, caption, read_lines, read_records
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.files import as_bytes, replacing, write_file
from faceexpr.utils.text import class_columns, counted, csv_text, kind_of

TRACKS, TIMELINE = "tracks.csv", "timeline.png"
SEGMENT = 512
"""Frames after which what was found is final: an analysis that was interrupted goes on from the last whole segment.
Whole batches, so that results stay the same."""

LOST = 1.0
"""Seconds for which a face may not be seen and keeps its track."""

OVERLAP = 0.3
"""IoU of a face with the place where its track is expected, above which it belongs to the track."""

_COLUMNS = ("track", "start", "end", "frames", "score", "expression")  # of the table of tracks
_MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")  # Matroska takes any other
_CLOCK = Fraction(1, 90_000)  # of annotated videos, in seconds
_PATIENCE = 10.0  # seconds that a stream may be silent
_WAITING = 8  # frames that wait to be drawn
_SCALE = 1000  # longer side of a frame, as the tracker sees it: its filter is made for pixels of usual sizes
_LANES, _BINS = 8, 400  # of the timeline


class Frame(NamedTuple):
    """A frame that is to be analysed: its number in the video, its time in seconds, what is known of it, and itself."""

    number: int
    time: float
    notes: tuple[str, ...]
    image: Any

    def pixels(self) -> NDArray[np.uint8]:
        """Return the upright frame, RGB, uint8 (H, W, 3)."""
        turns = round(self.image.rotation / 90)
        return np.ascontiguousarray(np.rot90(self.image.to_ndarray(format="rgb24"), turns))


class Video:
    """A video file, a camera or a stream, whose frames are decoded one after the other.

    Args:
        source: a path, a URL, or a camera by its number or its name.
        camera: whether it is a camera.
        every: only every so manieth frame is taken.
        per_second: only so many frames a second are taken, by their times.
        seconds: only the frames of so many seconds from the start are.

    Attributes:
        source: what it is called; user and password of a URL are left out.
        name: of the files that are made from it.
        live: whether it is a camera or a stream, which cannot be read again.
        rate: frames a second, on average.
        interval: seconds from one frame that is taken to the next, by the rate.
        expected: about how many frames will be taken; None where nobody knows.
        start: time of its start by its own clock, in seconds.
        ending: why it ended before its end; None where it did not.

    Raises:
        FaceExprError: an option is wrong, it cannot be read, or PyAV is not installed.
    """

    def __init__(
        self, source: str, camera: bool = False, every: int | None = None, per_second: float | None = None,
        seconds: float | None = None,
    ) -> None:  # fmt: skip
        require(every is None or every >= 1, "every", every, "1 or more")
        require(every is None or per_second is None, "every", every, "it or per_second, not both")
        for name, value in (("per_second", per_second), ("seconds", seconds)):
            require(value is None or value > 0, name, value, "more than 0")
        self.live = camera or "://" in source
        self.source = f"camera {source}" if camera else re.sub("//[^/@]*@", "//", source)
        self.name = "camera" if camera else "stream" if self.live else Path(source).stem
        self.every, self.per_second, self.seconds = every or 1, per_second, seconds
        self.ending: str | None = None
        place: tuple[str, str | None] = find_camera(source, sys.platform) if camera else (source, None)
        self._place, self._kind = place
        if not self.live and not Path(source).exists():
            raise FaceExprError(f"{source} does not exist; expected a video")
        self._av = require_package("av")
        self._container = self.open()
        self._stream = self._container.streams.best("video")
        if self._stream is None:
            raise FaceExprError(f"{self.source} has no moving images; expected a video")
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate
        self.rate = rate if rate and rate <= 240 else Fraction(25)  # recordings of browsers say 1000
        self.interval = max(float(self.every / self.rate), 1 / per_second if per_second else 0.0)
        length = inf if self.live or not self._container.duration else self._container.duration / 1e6
        self.expected = None if (least := min(length, seconds or inf)) == inf else round(least / self.interval)
        start = self._container.start_time
        self.start = None if self.live or start is None else start / 1e6
        self._can_seek = length < inf and self.start is not None
        self._broken = 0

    def open(self) -> Any:
        """Open it anew, as a container of PyAV."""
        options = {"rtsp_transport": "tcp"} if self._place.startswith("rtsp") else {}
        timeout = (_PATIENCE, _PATIENCE) if "://" in self._place else None
        try:
            return self._av.open(self._place, format=self._kind, options=options, timeout=timeout)
        except (self._av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            cut = "; of a recording that was cut off, an MP4 lacks its index" if "Invalid data" in str(reason) else ""
            raise FaceExprError(f"{self.source} cannot be read as a video: {reason}; expected one{cut}") from error

    def frames(self, done: tuple[int, float] | None = None) -> Iterator[Frame]:
        """Yield the frames to analyse, in order; only those after ``done``, the number and the time of one."""
        number, last = done or (-1, -inf)
        if done and self._can_seek:
            with suppress(self._av.FFmpegError):  # what cannot be searched is decoded from its start
                self._container.seek(round((last + (self.start or 0)) / self._stream.time_base), stream=self._stream)
        slot = self._slot(number, last) if done else -1
        for time, image in self._decode():
            if time <= last:
                self._broken = 0
                continue
            number, last = number + 1, time
            if self.seconds is not None and time >= self.seconds:
                return
            before, slot = slot, self._slot(number, time)
            if slot == before:
                continue
            notes = [f"{counted(self._broken, 'packet')} before this frame could not be decoded"] * bool(self._broken)
            self._broken = 0
            yield Frame(number, time, (*notes, *["the frame is damaged"] * image.is_corrupt), image)

    def _slot(self, number: int, time: float) -> int:
        """Return which of the frames that are taken stands for a frame: the first of those that it stands for."""
        return floor(time * self.per_second + 1e-6) if self.per_second else number // self.every

    def _decode(self) -> Iterator[tuple[float, Any]]:
        """Yield all frames with their times from the start, in seconds; by the rate where they have none."""
        start, last, step = self.start, 0.0, float(1 / self.rate)
        for number, image in enumerate(self._decode_packets()):
            shown = number * step if image.pts is None else float(image.pts * image.time_base)
            start = shown if start is None else start
            if shown - start < last - LOST:  # clocks start anew where recordings were joined, or a camera was
                start = shown - last - step
            last = round(max(shown - start, 0.0), 6)
            yield last, image

    def _decode_packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        packet: Any = True
        while packet is not None:
            try:
                packet = next(packets, None)
            except self._av.FFmpegError as error:
                self.ending, packet = error.strerror, None
            try:
                yield from self._stream.decode(packet)
            except self._av.FFmpegError:
                self._broken += 1


def find_camera(camera: str, platform: str) -> tuple[str, str]:
    """Return what FFmpeg calls a camera, by its number or its name, and what it reads it with on a platform."""
    others = {"darwin": (camera, "avfoundation"), "win32": (f"video={camera}", "dshow")}
    return others.get(platform, (f"/dev/video{camera}" if camera.isdigit() else camera, "v4l2"))


def require_package(name: str) -> ModuleType:
    """Return a package of the extra ``video``; a `FaceExprError` where it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise FaceExprError(f"videos take the package {name}: pip install 'faceexpr[video]'") from error


class Tracks:
    """Joins the faces of frames to tracks, and smooths the probabilities of each over time.

    Norfair predicts by a Kalman filter where the face of each track will be; what overlaps most is it.

    Args:
        interval: usual seconds between frames.
        smoothing: seconds after which what was seen counts for a third (1 / e); 0 smooths nothing.
    """

    def __init__(self, interval: float, smoothing: float) -> None:
        require(smoothing >= 0, "smoothing", smoothing, "0 or more seconds")
        self._norfair = require_package("norfair")
        self._interval, self._smoothing = interval, smoothing
        self._steps = max(2, round(LOST / interval))
        self._tracker = self._norfair.Tracker("iou", 1 - OVERLAP, hit_counter_max=self._steps, initialization_delay=0)
        self._time = -inf
        self._seen: dict[int, tuple[float, Mapping[str, float]]] = {}

    def follow(self, time: float, size: tuple[int, int], boxes: Iterable[Sequence[float]]) -> list[int]:
        """Return the track of each face of the next frame, at a time in seconds and of a width and height in pixels."""
        # The tracker counts steps; where a frame came late, several have passed.
        for _ in range(1, min(round(min((time - self._time) / self._interval, 1e6)), self._steps + 2)):
            self._tracker.update()
        self._time = time
        corners = [np.reshape(box, (2, 2)) * (_SCALE / max(size)) for box in boxes]
        faces = [self._norfair.Detection(points, data=(time, place)) for place, points in enumerate(corners)]
        found = [(*track.last_detection.data, track.id) for track in self._tracker.update(faces, period=self._steps)]
        alive = {track.id for track in self._tracker.tracked_objects}
        self._seen = {track: seen for track, seen in self._seen.items() if track in alive}
        return [track for _, _, track in sorted(each for each in found if each[0] == time)]

    def smooth(self, track: int, probabilities: Mapping[str, float]) -> list[float]:
        """Return the probabilities of a face of the frame, drawn towards those that its track has had before."""
        time, before = self._seen.get(track, (0.0, probabilities))
        kept = exp((time - self._time) / self._smoothing) if self._smoothing else 0.0
        return [now + kept * (before[name] - now) for name, now in probabilities.items()]

    def remember(self, track: int, probabilities: Mapping[str, float] | None) -> None:
        """Keep what the next frame's probabilities of a track are drawn to."""
        if probabilities is not None:
            self._seen[track] = self._time, probabilities


class AnnotatedVideo:
    """The annotated video, in segments that are joined at its end: those that are whole outlast an interruption.

    Args:
        folder: of the segments.
        rate: frames a second, about.
    """

    def __init__(self, folder: Path, rate: Fraction) -> None:
        self.folder, self._rate = folder, rate
        self._av = require_package("av")
        self._size: tuple[int, int] | None = None
        if self.path(0).is_file():
            with self._av.open(str(self.path(0))) as container:
                self._size = container.streams.video[0].width, container.streams.video[0].height
        self._segment = -1
        self._out: Any = None
        self._stream: Any = None
        self._files = ExitStack()
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()

    def path(self, segment: int) -> Path:
        """Return the file of a segment."""
        return self.folder / f"{segment:05}.nut"  # NUT keeps times as they are

    def write(self, position: int, time: float, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Draw a frame and append it, in a thread of its own; ``position`` counts all of them, from 0."""
        self._waiting.append(self._worker.submit(self._write, position // SEGMENT, time, draw))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()

    def _write(self, segment: int, time: float, draw: Callable[[], NDArray[np.uint8]]) -> None:
        pixels = draw()
        if self._size is None:  # even numbers, as colours are kept for two by two pixels; never another size
            self._size = max(2, pixels.shape[1] // 2 * 2), max(2, pixels.shape[0] // 2 * 2)
        if segment != self._segment:
            self._files.close()
            self._segment = segment
            file = self._files.enter_context(replacing(self.path(segment)))
            self._out = self._files.enter_context(self._av.open(file, "w", format="nut"))
            # Without frames that refer to later ones, segments can be joined as they are.
            options = {"preset": "veryfast", "crf": "23", "bf": "0", "threads": "2"}
            self._stream = self._out.add_stream("libx264", rate=self._rate, options=options)
            self._stream.width, self._stream.height = self._size
            self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", _CLOCK
            self._files.callback(lambda: self._out.mux(self._stream.encode(None)))
        width, height = self._size
        frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(width, height, "yuv420p")
        frame.pts, frame.time_base = round(time / _CLOCK), _CLOCK
        self._out.mux(self._stream.encode(frame))

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._files, self._worker:  # an error on the way removes the segment that is not whole
            if error[1] is not None:
                raise error[1]
            for written in self._waiting:
                written.result()

    def join(self, place: Path, video: Video) -> None:
        """Join the segments, if any, to one file, with the video's sound unless it is live."""
        if not self.path(0).is_file():
            return
        with ExitStack() as files:
            sound = None if video.live else files.enter_context(video.open()).streams.best("audio")
            fits = sound is None or sound.codec_context.codec.canonical_name in _MP4_SOUND
            place = place.with_name(f"{place.name}.{'mp4' if fits else 'mkv'}")
            file = files.enter_context(replacing(place))
            out = files.enter_context(self._av.open(file, "w", format="mp4" if fits else "matroska"))
            first = files.enter_context(self._av.open(str(self.path(0)))).streams.video[0]
            images = out.add_stream_from_template(first)
            segments = (self._packets(self._av.open(str(path)), images) for path in sorted(self.folder.glob("*.nut")))
            packets: list[Iterator[tuple[float, Any]]] = [chain.from_iterable(segments)]
            if sound is not None:
                copied = self._packets(sound.container, out.add_stream_from_template(sound), sound, video)
                packets.append(copied)
            for _, packet in heapq.merge(*packets, key=itemgetter(0)):
                out.mux_one(packet)

    def _packets(
        self, container: Any, target: Any, stream: Any = None, video: Video | None = None
    ) -> Iterator[tuple[float, Any]]:
        """Yield the packets of a stream, with their times in seconds from the start of the video, for another file."""
        start, end = (0.0, inf) if video is None else (video.start or 0.0, video.seconds or inf)
        with container, suppress(self._av.FFmpegError):  # damaged sound ends early
            for packet in container.demux(stream or container.streams.video[0]):
                if packet.dts is None or packet.pts is None:
                    continue
                shift = round(start / packet.time_base)
                packet.dts, packet.pts, packet.stream = packet.dts - shift, packet.pts - shift, target
                if (time := float(packet.dts * packet.time_base)) >= end:
                    return
                yield time, packet


def analyze_video(
    pipeline: FacePipeline, video: Video, out: str | Path, pictures: bool = False, smoothing: float = 0.5,
    progress: Callable[[int], object] = bool,
) -> str:  # fmt: skip
    """Analyse a video, or go on with it: a record a frame, a row a track, a timeline, and the annotated video.

    Memory is constant. A live video ends with Ctrl-C, a file is interrupted by it.

    Args:
        pipeline: finds the faces and tells their expressions.
        video: the video.
        out: folder of the results.
        pictures: also write the annotated video, below ``pictures``.
        smoothing: see `Tracks`.
        progress: called with the number of frames that were done since the last call.

    Returns:
        What was found, in a sentence.

    Raises:
        FaceExprError: an option is wrong, nothing can be decoded, or the folder holds a live video's results.
    """
    if isinstance(pipeline.detector, GroundTruth):
        raise FaceExprError(f"detector is {pipeline.detector.name}; expected one that finds faces in a video")
    if not isinstance(video, Video):
        raise FaceExprError(f"video is {kind_of(video)}; expected a Video, such as Video('clip.mp4')")
    tracks, out = Tracks(video.interval, smoothing), Path(out)
    records, parts = out / RECORDS, out / PARTS
    if video.live and records.exists():
        raise FaceExprError(f"out: {out} holds a camera's or a stream's results, which end; expected another folder")
    if not (out / TRACKS).is_file():
        done, last = _go_back(records, parts if pictures else None), None
        for record in read_records(records):
            last, size = (record["frame"], record["time"]), (record["width"] or 1, record["height"] or 1)
            ids = tracks.follow(record["time"], size, [face["box"] for face in record["faces"]])
            for track, face in zip(ids, record["faces"], strict=True):
                tracks.remember(track, face["probabilities"])
        progress(done)
        frames, ahead = tee(video.frames(last))
        analyses = pipeline.run_with_pixels((video.source, frame.pixels) for frame in ahead)
        drawing = AnnotatedVideo(parts, video.rate)
        with records.open("ab") as file, drawing:
            try:
                # The frames come second: `zip` would drop one where the analyses end first.
                for position, (analysis, frame) in enumerate(zip(analyses, frames, strict=True), done):
                    result, ids = _join_tracks(pipeline, tracks, analysis.result, frame.time)
                    if pictures and analysis.pixels is not None:
                        names = [f"{track}: {caption(face)}" for track, face in zip(ids, result.faces, strict=True)]
                        shown = replace(analysis, result=result)
                        draw = partial(draw_faces, shown, pipeline.classifier.class_names, names)
                        drawing.write(position, frame.time, draw)
                    record = result.record() | {"name": video.name, "frame": frame.number, "time": frame.time}
                    record["faces"] = [
                        {"track": track, **face} for track, face in zip(ids, record["faces"], strict=True)
                    ]
                    record["notes"] = (*record["notes"], *frame.notes)
                    file.write(as_bytes(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"))
                    file.flush()
                    progress(1)
            except KeyboardInterrupt:
                if not video.live:
                    raise
        drawing.join(out / PICTURES / video.name, video)
        shutil.rmtree(parts, ignore_errors=True)
    return _write_tracks(out, pipeline.classifier.class_names, video)


def _go_back(records: Path, parts: Path | None) -> int:
    """Cut records back to whole segments, and to those whose annotated video is there too; return how many are left."""
    records.parent.mkdir(parents=True, exist_ok=True)
    ends, position = [0], 0
    for number, (line, _) in enumerate(read_lines(records), 1):
        position += len(line)
        if number % SEGMENT == 0:
            ends.append(position)
    kept = len(ends) - 1
    if parts is not None:
        kept = min(kept, len([*parts.glob("*.nut")]))  # they were written in order
    with records.open("ab") as file:
        file.truncate(ends[kept])
    return kept * SEGMENT


def _join_tracks(
    pipeline: FacePipeline, tracks: Tracks, result: ImageResult, time: float
) -> tuple[ImageResult, list[int]]:
    """Return a frame's result with smoothed probabilities, and the track of each of its faces."""
    faces = []
    ids = tracks.follow(time, result.size or (1, 1), [face.box for face in result.faces])
    for track, face in zip(ids, result.faces, strict=True):
        if face.probabilities is not None:
            face = pipeline.add_expression(face, tracks.smooth(track, face.probabilities))
        tracks.remember(track, face.probabilities)
        faces.append(face)
    return replace(result, faces=tuple(faces)), ids


def _write_tracks(out: Path, class_names: Sequence[str], video: Video) -> str:
    """Write the table of tracks and the timeline from the records, and return what was found."""

    def faces() -> Iterator[tuple[float, int, float, NDArray[np.float64]]]:
        for record in read_records(out / RECORDS):
            for face in record["faces"]:
                probabilities = (face["probabilities"] or dict.fromkeys(class_names, 0.0)).values()
                yield record["time"], face["track"], face["score"], np.array([*probabilities])

    times = [record["time"] for record in read_records(out / RECORDS)]
    if not times:
        raise FaceExprError(f"{video.source} has no frame that can be decoded; expected a video")
    spans: dict[int, tuple[float, float]] = {}
    sums: dict[int, NDArray[np.float64]] = {}  # of 1, the scores and the probabilities
    for time, number, score, probabilities in faces():
        spans[number] = spans.get(number, (time, time))[0], time
        sums[number] = sums.get(number, 0) + np.array([1, score, *probabilities])
    if longest := sorted(sorted(sums, key=lambda number: -sums[number][0])[:_LANES]):
        shares = np.zeros((len(longest), min(_BINS, max(1, len(times) // 2)), len(class_names)))
        length = times[-1] + video.interval
        for time, number, _, probabilities in faces():
            if number in longest:
                shares[longest.index(number), int(time / length * shares.shape[1])] += probabilities
        names = [f"face {number}" for number in longest]
        from faceexpr.callbacks.reports import write_figure
        from faceexpr.visualization.classification import timeline

        figure = timeline(shares, length, names, class_names, Path(video.source).name)
        write_file(out / TIMELINE, write_figure(None, video.name, figure))
    rows = []
    for number in sorted(sums):
        seen, scores, *summed = sums[number].tolist()
        best = class_names[int(np.argmax(summed))] if any(summed) else ""
        # The probabilities of a frame, where it has any, sum to 1.
        means = [f"{value:.6g}" for value in (scores / seen, *(value / max(1.0, sum(summed)) for value in summed))]
        rows.append([number, *spans[number], int(seen), means[0], best, *means[1:]])
    write_file(out / TRACKS, csv_text((*_COLUMNS, *class_columns(class_names, _COLUMNS)), rows))
    found = f"{counted(len(sums), 'track')} of faces in {counted(len(times), 'frame')} of {times[-1]:.1f} seconds"
    return f"{found}; it ended early: {video.ending}" if video.ending else found
