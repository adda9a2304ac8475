"""Images in files: read into memory or each time they are asked for, and which of them are broken."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from faceexpr.data.loading import PADDING, BatchRequest, FaceSplit, Failure, ReadFaces, find_process, gather
from faceexpr.utils.crop import Crop, cut_face
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import DEFAULT_MAX_PIXELS, ImageError, read_image, resize, too_large, upright_size
from faceexpr.utils.text import counted

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the upright image."""

OVERSAMPLING = 8
"""A large photograph is first shrunk by a whole factor, which is cheap, to no less than this many times the final side:
what the resize then does to it differs from resizing the original by less than one grey level."""

MANY = 10_000
"""Images whose check at the start takes long enough to be announced."""

_TAIL = 4096
"""Bytes at the end of a JPEG file among which its end mark is looked for: some cameras write notes after it."""

FRAGMENT = re.compile(r"(.+)#xywh=(-?\d+),(-?\d+),(-?\d+),(-?\d+)", re.DOTALL)
"""A name that ends in a box; one that holds such a sign elsewhere is that of a whole file."""

_AT_ONCE = 1024
"""Places that the threads are given at a time; what is kept for each would add up over a million of them."""

Result = TypeVar("Result")


class FileNames(Sequence[str]):
    """The names of very many files, kept as the bytes of one array.

    A list of strings takes some 60 bytes more for each. What matters as much: a forked process that reads strings
    counts references to them, and so comes to own a copy of every page that holds one.

    Args:
        names: the paths; bytes that are no text have come through `os.fsdecode`, as those of `os.listdir` have.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # nobody asks for a stretch of them
        return os.fsdecode(self._names[index])

    @property
    def digest(self) -> str:
        """A short text that is another for other names."""
        return hashlib.sha256(self._names.dtype.str.encode() + self._names.tobytes()).hexdigest()

    def pick(self, indices: Iterable[int]) -> FileNames:
        """Return the names at these places, in their order."""
        return FileNames(self[index] for index in indices)


def split_fragment(name: str) -> tuple[str, Box | None]:
    """Return a file and the box of one face in it, which a name may give as ``FILE#xywh=X,Y,WIDTH,HEIGHT``.

    That is the form of the W3C's "Media fragments URI 1.0"; pixels of the upright image.
    """
    match = FRAGMENT.fullmatch(name)
    if match is None:
        return name, None
    x, y, width, height = map(int, match.groups()[1:])
    return match[1], (x, y, x + width, y + height)


def check_image(file: str, max_pixels: int) -> None:
    """Read an image's header and see whether the file has its end; one that has not is decoded to find out.

    Raises:
        ImageError: the image cannot be read. One that passes may still be damaged inside.
    """
    file = split_fragment(file)[0]
    width, height = upright_size(file)
    if width * height > max_pixels:
        raise ImageError(file, too_large(f"{width} x {height}", max_pixels))
    try:
        with open(file, "rb", buffering=0) as opened:  # noqa: PTH123  # a name is all there is
            head = opened.read(4)
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - _TAIL))
            tail = opened.read(_TAIL)
    except OSError as error:
        raise ImageError(file, f"cannot be opened: {error.strerror}") from error
    # Within compressed data no mark of this value occurs: JPEG writes a zero after each byte of 255.
    if (head[:3] == b"\xff\xd8\xff" and b"\xff\xd9" not in tail) or (head == b"\x89PNG" and b"IEND" not in tail):
        read_image(file, max_pixels=max_pixels, reduce_to=1)


def find_broken(check: Callable[[int], None], number: int) -> dict[int, str]:
    """Check many images; each process of a run takes its part, and all have to ask.

    Args:
        check: raises an `ImageError` where the image at a place is broken.
        number: of images.

    Returns:
        Reasons by place, ascending.
    """
    rank, world_size = find_process()

    def reason(place: int) -> str:
        try:
            check(place)
        except ImageError as error:
            return error.reason
        return ""

    mine = range(rank, number, world_size)
    broken = [(place, why) for place, why in zip(mine, map_in_threads(reason, mine), strict=True) if why]
    return dict(sorted(chain.from_iterable(gather(broken))))


def map_in_threads(function: Callable[[int], Result], places: range) -> Iterator[Result]:
    """Yield the function's results for the places, in their order, computed by several threads."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(places), _AT_ONCE):
            yield from pool.map(function, places[start : start + _AT_ONCE])


def find_equal(files: Sequence[str]) -> list[list[int]]:
    """Return the places of files that hold the same bytes, in groups of two or more; what cannot be read is in none.

    Faces that names cut out (see `split_fragment`) are equal where their boxes are too. Only those files are read whole
    that have the size and the last bytes of another.
    """
    groups = [list(range(len(files)))]
    for whole in (False, True):
        places = list(chain.from_iterable(groups))
        contents = map_in_threads(partial(_content, files, places, whole), range(len(places)))
        by_content: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for place, content in zip(places, contents, strict=True):
            by_content[content].append(place)
        groups = [equal for content, equal in by_content.items() if len(equal) > 1 and content[0] >= 0]
    return groups


def _content(files: Sequence[str], places: Sequence[int], whole: bool, number: int) -> tuple[int, bytes]:
    """Return a file's size, or -1 where it cannot be read, and a digest of its box and its content or last bytes."""
    file, box = split_fragment(files[places[number]])
    try:
        with open(file, "rb", buffering=0) as opened:  # noqa: PTH123  # a name is all there is
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0 if whole else max(0, size - _TAIL))
            return size, hashlib.sha256(opened.read() + repr(box).encode()).digest()
    except OSError:
        return -1, b""


def warn_of_broken(name: str, sources: Sequence[str], broken: Mapping[int, str]) -> None:
    """Count and name the images of a split that turned out to be broken while they were used, where there are any.

    Args:
        name: of the split.
        sources: what to call each of its images.
        broken: reasons by position.
    """
    if broken:
        from lightning.pytorch.utilities import rank_zero_warn  # which takes seconds, for who only cuts out faces

        reasons = "".join(f"\n  {sources[place]}: {broken[place]}" for place in sorted(broken))
        rank_zero_warn(
            f"{len(broken):,} of {counted(len(sources), 'image')} of the {name} split turned out to be broken and "
            f"{'was' if len(broken) == 1 else 'were'} left out:{reasons}"
        )


@dataclass(frozen=True)
class FaceReader:
    """Read faces from image files.

    Attributes:
        image_size: side of the faces in pixels.
        crop: how they are made: grey or RGB, with their proportions or without.
        box: where the face is in each image whose name gives none, which the crop may widen; None for all of it.
        max_pixels: an image with more pixels is not read.
    """

    image_size: int
    crop: Crop
    box: Box | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a face."""
        return 1 if self.crop.channels == 1 else 3, self.image_size, self.image_size

    def read(self, file: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return a face, uint8 of the shape, and remarks such as "first of 2 frames".

        Raises:
            ImageError: the file cannot be read.
        """
        file, own_box = split_fragment(file)
        box = own_box or self.box
        decoded = read_image(
            file,
            mode="L" if self.crop.channels == 1 else "RGB",
            max_pixels=self.max_pixels,
            reduce_to=OVERSAMPLING * self.image_size if box is None else None,
        )
        (height, width), notes = decoded.pixels.shape[:2], decoded.notes
        x0, y0, x1, y1 = 0, 0, width, height
        if box is not None:
            x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
            if x0 >= x1 or y0 >= y1:
                reason = f"the box {list(box)} lies outside the image of {width} x {height} pixels"
                raise ImageError(file, reason)
            notes = notes if (x0, y0, x1, y1) == tuple(box) else (*notes, "box clipped to the image")
        side = max(x1 - x0, y1 - y0)
        if self.crop.shape == "square" and side**2 > self.max_pixels:
            raise ImageError(file, too_large(f"made square, {side} x {side}", self.max_pixels))
        return face_tensor(cut_face(decoded.pixels, (x0, y0, x1, y1), self.crop), self.image_size), notes


def face_tensor(pixels: np.ndarray, image_size: int, channels: int | None = None) -> Tensor:
    """Resize a face, uint8 (H, W) or (H, W, 3), to what a data set holds: uint8 (1 or 3, image_size, image_size).

    Pixels that have the size already stay as they are; where ``channels`` is 1 they are made grey before.
    """
    if channels == 1 and pixels.ndim == 3:
        pixels = np.array(Image.fromarray(pixels).convert("L"))
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    resized = resize(image[None].float(), image_size)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def read_faces(files: FileNames, reader: FaceReader) -> FaceSplit:
    """Read image files into memory, and keep account of those that cannot be read.

    Returns:
        A split without labels. A failure's ``position`` is the file's place in ``files``; the images, their sources
        and the keys of the notes are those that are left.
    """
    images = torch.empty((len(files), *reader.shape), dtype=torch.uint8)

    def read(position: int) -> Failure | str:
        try:
            images[position], notes = reader.read(files[position])
        except ImageError as error:
            return Failure(position, files[position], error.reason)
        return "; ".join(notes)

    # Decoders release the interpreter's lock, so threads help; they share the one tensor, which processes would not.
    results = list(map_in_threads(read, range(len(files))))
    failures = [result for result in results if isinstance(result, Failure)]
    kept = [position for position, result in enumerate(results) if isinstance(result, str)]
    if failures:
        # In place: a copy of those that are left would need the memory of a second split.
        for place, position in enumerate(kept):
            images[place] = images[position]
    return FaceSplit(
        images[: len(kept)],
        targets=None,
        sources=files.pick(kept) if failures else files,
        failures=failures,
        notes={place: str(results[position]) for place, position in enumerate(kept) if results[position]},
    )


@dataclass(frozen=True, eq=False)
class StreamedFaces:
    """Faces in files, which look like the tensor (N, C, H, W) that they are too large for.

    Args:
        files: one for each face.
        reader: reads them.
    """

    files: FileNames
    reader: FaceReader

    @property
    def shape(self) -> torch.Size:
        """N, C, H and W."""
        return torch.Size((len(self.files), *self.reader.shape))

    def __getitem__(self, index: int | Tensor, /) -> Tensor:
        """Return faces, uint8 (C, H, W) or (B, C, H, W).

        Raises:
            ImageError: one cannot be read.
        """
        if isinstance(index, Tensor):
            return torch.stack([self[row] for row in index.tolist()])
        return self.reader.read(self.files[index])[0]

    def pick(self, rows: Sequence[int]) -> StreamedFaces:
        """Return some of the faces."""
        return StreamedFaces(self.files.pick(rows), self.reader)

    def read(self, request: BatchRequest) -> ReadFaces:
        """Read the faces of a batch."""
        image = torch.empty((len(request.indices), *self.reader.shape), dtype=torch.uint8)
        if get_worker_info() is not None:
            image.share_memory_()  # read into it, and not copied there to be handed over
        index = torch.tensor(request.indices, dtype=torch.int64)
        gaps: list[int] = []
        broken: dict[int, str] = {}
        notes: dict[int, str] = {}
        for row, position in enumerate(request.indices):
            try:
                image[row], remarks = self.reader.read(self.files[max(position, 0)])
            except ImageError as error:
                gaps.append(row)
                broken[position] = error.reason
                continue
            if remarks:
                notes[position] = "; ".join(remarks)
        broken.pop(PADDING, None)
        notes.pop(PADDING, None)
        index[gaps] = PADDING
        if gaps:
            # Batch normalisation looks at all of a batch, so what fills a gap has to be a face.
            whole = [row for row in range(len(index)) if row not in gaps][:1]
            image[gaps] = image[whole].clone() if whole else torch.zeros_like(image[gaps])
        return ReadFaces(index, image, request.share if request.training else None, broken, notes)


def stream_faces(files: FileNames, reader: FaceReader) -> FaceSplit:
    """Return a split of faces that are read when they are asked for.

    Every file is looked at, each process of a run taking its part; those that are seen to be broken are failures.
    What is damaged inside shows later.

    Raises:
        FaceExprError: not all processes see the same files.
    """
    start = time.perf_counter()
    if len(set(gather(files.digest))) > 1:
        raise FaceExprError(
            f"the processes of this run see different files, the first being {files[0]}; expected the same files, "
            "under the same names, on every machine"
        )
    bad = find_broken(lambda position: check_image(files[position], reader.max_pixels), len(files))
    failures = [Failure(position, files[position], reason) for position, reason in bad.items()]
    if len(files) >= MANY:
        from lightning.pytorch.utilities import rank_zero_info

        rank_zero_info(f"looked at the headers of {len(files):,} images in {time.perf_counter() - start:.0f} s")
    kept = files.pick(position for position in range(len(files)) if position not in bad) if bad else files
    return FaceSplit(images=StreamedFaces(kept, reader), targets=None, sources=kept, failures=failures)
