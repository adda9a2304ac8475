"""The images of an annotation file, fetched by their links."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from faceexpr.data.annotations.parsing import fetched_name
from faceexpr.data.annotations.reading import read_document
from faceexpr.data.download import Limits, LinkError, download
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.images import ImageError, upright_size

REPORT = "links.csv"
"""What became of each link, in the folder of the images."""


@dataclass(frozen=True)
class Link:
    """What became of a link.

    Attributes:
        url: the link.
        file: name of its file in the folder; empty where it failed.
        status: ``fetched``, ``present`` where a good file was there before, or ``failed``.
        reason: why it failed.
    """

    url: str
    file: str
    status: Literal["fetched", "present", "failed"]
    reason: str = ""


def links_of(annotations: Path, format: str = "auto") -> list[str]:
    """Return the links of an annotation file, each once, in the order of the file.

    Raises:
        FaceExprError: the file cannot be read, or has no links.
    """
    document = read_document(annotations, format)
    links = list(dict.fromkeys(entry.url for entry in document.entries if entry.url))
    if not links:
        raise FaceExprError(f"{annotations} has no links; expected annotations that name their images by http or https")
    return links


def fetch(links: list[str], folder: Path, workers: int, limits: Limits) -> Iterator[Link]:
    """Fetch links into a folder and yield each when it is done, in any order.

    A file gets its name when it is complete, so that whatever was broken off can be begun again: good files that are
    there stay, whatever their age. Nothing is written outside the folder.

    Args:
        links: http and https.
        folder: made as needed.
        workers: links that are fetched at a time.
        limits: of each.

    Raises:
        FaceExprError: the folder cannot be written to.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fetch")
    try:
        for done in as_completed([pool.submit(_fetch_one, url, folder, limits) for url in links]):
            yield done.result()
    finally:
        # Without this, Ctrl-C would wait for all links.
        pool.shutdown(wait=True, cancel_futures=True)


def _fetch_one(url: str, folder: Path, limits: Limits) -> Link:
    name = fetched_name(url)
    file = folder / name
    try:
        upright_size(file)
        return Link(url, name, "present")
    except ImageError:
        pass
    try:
        content = download(url, limits)
    except LinkError as error:
        return Link(url, "", "failed", str(error))
    write_file(file, content)
    return Link(url, name, "fetched")


def write_report(links: list[Link], folder: Path) -> Path:
    """Write what became of each link to `REPORT`, and return its path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("url", "file", "status", "reason"))
    table.writerows(astuple(link) for link in links)
    write_file(folder / REPORT, text.getvalue())
    return folder / REPORT
