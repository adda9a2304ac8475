"""Analyse the images of many callers at once: limits for each, and one batch for those that come together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import faceexpr.pipeline
from faceexpr import __version__
from faceexpr.utils.errors import FaceExprError, require
from faceexpr.utils.images import DecodedImage, ImageError, read_image
from faceexpr.utils.labels import colour

LINGER = 0.01
"""Seconds that the first image of a batch waits for others."""

BATCH_PIXELS = 16_000_000
"""Pixels, of images that were shrunk, that are looked at together; one image with more is refused."""

HELD = 512_000_000
"""Bytes of all files that are held at a time, however many callers send slowly."""

DRAINED = 4
"""A file that is refused is read on, to so many times the largest one: who still sends would see no answer."""

STATUS = {"too large": 413, "not an image": 415, "format not": 415}
"""By how the reason begins for which an image cannot be read; 422 for damaged ones."""


@dataclass(frozen=True)
class ServiceOptions:
    """Where a service is, and what it refuses, each with a status of HTTP and one sentence.

    Args:
        host: address that is listened on; 0.0.0.0 is every one of this machine, for anybody who reaches it.
        port: where; 0 takes one that is free.
        coverage: also give each face all expressions that it may be: a set that holds the true one this often; by
            default 0.9 for a classifier that was calibrated for it, and none for others.
        max_pixels: images with more pixels are refused (413).
        max_bytes: larger files are refused (413).
        queue: number of images that may wait or be analysed at a time; more are refused (503).
        seconds: an image that is not analysed so long after it came is given up (503).
        body_seconds: a file that takes longer to come is given up (408).
        silent_seconds: a connection that has sent no whole head of a request for so long is closed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    coverage: float | None = None
    max_pixels: int = 50_000_000
    max_bytes: int = 20_000_000
    queue: int = 64
    seconds: float = 60
    body_seconds: float = 20
    silent_seconds: float = 10

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "port", self.port, "0 to 65535")
        for name in ("max_bytes", "queue", "seconds", "body_seconds", "silent_seconds"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")


class RefusedError(FaceExprError):
    """A request that is refused: the status of HTTP, and one sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, eq=False)
class _Waiting:
    name: str
    image: DecodedImage
    min_score: float
    answer: asyncio.Future[faceexpr.pipeline.Analysis]
    pixels: int


class Service:
    """A pipeline that many callers use at once; nothing is stored.

    Several threads decode files, and one looks at the images: at all that wait, in one batch.

    Args:
        pipeline: with a detector at the lowest score that callers may ask for.
        options: what is refused.
        min_score: faces that the detector is less sure of are left out, unless a caller says otherwise.
    """

    def __init__(self, pipeline: faceexpr.pipeline.FacePipeline, options: ServiceOptions, min_score: float) -> None:
        from faceexpr.pipeline.pipeline import READERS

        if isinstance(pipeline.detector, faceexpr.pipeline.GroundTruth):
            raise FaceExprError("detector is a file of annotations, which knows files alone; expected a model")
        suppression = getattr(pipeline.detector, "suppression", None)
        self.lowest = min_score if suppression is None else suppression.min_score
        self.pipeline, self.options, self.min_score = pipeline, options, min_score
        self.working = self.batches = self._held = 0
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        # Decoded images take far more memory than files do.
        self._decoded = asyncio.Semaphore(2 * pipeline.batch_size)
        self._readers, self._worker = ThreadPoolExecutor(READERS), ThreadPoolExecutor(1)

    def describe(self) -> dict[str, Any]:
        """Return what a caller, and the page, has to know."""
        names, limits = self.pipeline.classifier.class_names, self.options
        return {
            "status": "ok", "version": __version__, "working": self.working, "batches": self.batches,
            "class_names": names, "colours": [*map(colour, names)], "sets": self.pipeline.threshold is not None,
            "min_score": self.min_score, "lowest_score": self.lowest,
            "max_bytes": limits.max_bytes, "max_pixels": self.pipeline.max_pixels,
        }  # fmt: skip

    async def answer(self, body: AsyncIterator[bytes], name: str, min_score: str | float | None) -> dict[str, Any]:
        """Analyse the file that a body holds, and return its record as ``faceexpr analyze`` writes it.

        Raises:
            RefusedError: the body or the image is beyond a limit, is no image, or cannot be analysed.
        """
        try:
            score = self.min_score if min_score is None else float(min_score)
        except ValueError:
            score = -1
        if not self.lowest <= score <= 1:
            raise RefusedError(400, f"min_score is {min_score}; expected {self.lowest:g} to 1")
        data = bytearray()
        try:
            await self.receive(body, data)
            if self.working >= self.options.queue:
                raise RefusedError(503, f"{self.working} images are waiting already; try again in a few seconds")
            self.working += 1
            try:
                analysis = await asyncio.wait_for(self._analyze(name, bytes(data), score), self.options.seconds)
            except asyncio.TimeoutError:
                raise RefusedError(503, f"the analysis takes more than {self.options.seconds:g} seconds") from None
            finally:
                self.working -= 1
        finally:
            self._held -= len(data)
        return {"image": name, "name": name, **analysis.result.record()}

    async def receive(self, body: AsyncIterator[bytes], data: bytearray) -> None:
        """Read a body in time; one that is refused is read on for a while and thrown away."""
        seconds, refusal, length = self.options.body_seconds, None, 0
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        try:
            while (chunk := await asyncio.wait_for(anext(body, None), end - clock())) is not None:
                length += len(chunk)
                if refusal is None:
                    data += chunk
                    self._held += len(chunk)
                if length > self.options.max_bytes:
                    limit = f"{self.options.max_bytes:,} bytes or fewer (max_bytes)"
                    refusal = RefusedError(413, f"the file is too large; expected {limit}")
                elif self._held > HELD:
                    refusal = RefusedError(503, "too many files come at once; try again in a few seconds")
                if refusal is not None:
                    self._held -= len(data)
                    data.clear()
                    if length > DRAINED * self.options.max_bytes:
                        break
        except asyncio.TimeoutError:
            refusal = refusal or RefusedError(
                408, f"the file has not come within {seconds:g} seconds; expected all of it"
            )
        if refusal is None and not data:
            refusal = RefusedError(400, "the body is empty; expected the bytes of an image file")
        if refusal is not None:
            raise refusal

    async def _analyze(self, name: str, data: bytes, min_score: float) -> faceexpr.pipeline.Analysis:
        loop, limits = asyncio.get_running_loop(), (self.pipeline.max_pixels, self.pipeline.reduce_to)
        async with self._decoded:
            try:
                image = await loop.run_in_executor(self._readers, partial(read_image, data, "RGB", *limits))
            except ImageError as error:
                status = next((code for start, code in STATUS.items() if error.reason.startswith(start)), 422)
                raise RefusedError(status, f"the image cannot be read: {error.reason}") from error
            height, width = image.pixels.shape[:2]
            if height * width > BATCH_PIXELS:
                raise RefusedError(
                    413, f"the image is too large, {width} x {height} when shrunk; expected a smaller one"
                )
            waiting = _Waiting(name, image, min_score, loop.create_future(), height * width)
            self._waiting.put_nowait(waiting)
            return await waiting.answer

    async def work(self) -> None:
        """Analyse what waits, batch after batch, until this is cancelled."""
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(LINGER)
            while not self._waiting.empty() and len(batch) < self.pipeline.batch_size:
                if sum(each.pixels for each in batch) > BATCH_PIXELS:
                    break
                batch.append(self._waiting.get_nowait())
            batch = [each for each in batch if not each.answer.done()]  # others were given up
            self.batches += bool(batch)
            found = await asyncio.get_running_loop().run_in_executor(self._worker, self._look, batch)
            for each, result in zip(batch, found, strict=True):
                if isinstance(result, RefusedError) and not each.answer.done():
                    each.answer.set_exception(result)
                elif not each.answer.done():
                    each.answer.set_result(result)

    def _look(self, batch: Sequence[_Waiting]) -> list[Any]:
        """Return the analysis of each image; one that makes the batch fail is found, and refused alone."""
        try:
            images = [(each.name, each.image) for each in batch]
            return [*self.pipeline.analyze_decoded(images, [each.min_score for each in batch])] if batch else []
        except Exception as error:  # a library may raise any, and the service goes on
            if len(batch) > 1:
                return [result for each in batch for result in self._look([each])]
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return [RefusedError(500, f"the analysis of this image has failed ({reason})")]
