"""Download the images of an annotation file by their links: http and https only, of limited size, images only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError, ReadTimeoutError
from urllib3.util import parse_url

from faceexpr import __version__
from faceexpr.data.annotations.parsing import fetched_name
from faceexpr.data.annotations.reading import read_document
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import write_file
from faceexpr.utils.images import ImageError, read_image, upright_size
from faceexpr.utils.text import csv_text

REPORT = "links.csv"
"""What became of each link, in the folder of the images."""

_NO_IMAGE = ("text/", "application/json", "application/xml", "application/pdf", "audio/", "video/")
"""Content types that servers send with pages which say that there is no image; many send images without a right one."""
_MAY_PASS = (408, 425, 429, *range(500, 600))
"""HTTP statuses that may pass."""
_MOST_REDIRECTS = 10
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Limits:
    """What a download may take.

    Args:
        megabytes: larger files are refused.
        timeout: seconds that a server may keep silent.
        patience: seconds after which a download that still goes on is given up.
        tries: how often a link is tried when its server is busy or cannot be reached.
        backoff: the second try follows the first at once, the third after twice so many seconds, and each further one
            after twice as many as the one before.
    """

    megabytes: float = 50.0
    timeout: float = 30.0
    patience: float = 300.0
    tries: int = 3
    backoff: float = 1.0

    def __post_init__(self) -> None:
        for name in ("megabytes", "timeout", "patience", "tries"):
            if not 0 < getattr(self, name) < float("inf"):
                raise FaceExprError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.backoff < float("inf"):
            raise FaceExprError(f"backoff is {self.backoff}; expected 0 or more seconds")


class LinkError(Exception):
    """A link that gives no image; the text says why."""


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


def list_links(annotations: Path, format: str = "auto") -> list[str]:
    """Return the links of an annotation file, each once, in the order of the file.

    Raises:
        FaceExprError: the file cannot be read, or has no links.
    """
    links = list(dict.fromkeys(entry.url for entry in read_document(annotations, format).entries if entry.url))
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
    try:
        upright_size(folder / name)
        return Link(url, name, "present")
    except ImageError:
        pass
    try:
        content = download(url, limits)
    except LinkError as error:
        return Link(url, "", "failed", str(error))
    write_file(folder / name, content)
    return Link(url, name, "fetched")


def write_report(links: list[Link], folder: Path) -> Path:
    """Write what became of each link to `REPORT`, and return its path."""
    write_file(folder / REPORT, csv_text(("url", "file", "status", "reason"), map(astuple, links)))
    return folder / REPORT


def download(url: str, limits: Limits) -> bytes:
    """Return the bytes of the image that a link leads to.

    The image is decoded once, so that neither a page nor a truncated file passes for one.

    Raises:
        LinkError: there is none, or it breaks a limit.
    """
    try:
        content = _get(url, limits)
    except MaxRetryError as error:
        raise LinkError(f"gave up: {error.reason}") from None
    except (HTTPError, ValueError) as error:  # no address, or a redirect to something other than http and https
        raise LinkError(f"no link that can be followed: {error}") from None
    try:
        read_image(content, reduce_to=64)
    except ImageError as error:
        raise LinkError(f"what it leads to is no good image: {error.reason}") from error
    return content


def _get(url: str, limits: Limits) -> bytes:
    address = parse_url(url)
    if address.scheme not in ("http", "https"):
        raise LinkError("neither http nor https")
    again = limits.tries - 1
    retries = urllib3.Retry(
        total=None, connect=again, read=again, status=again, other=again, redirect=_MOST_REDIRECTS,
        status_forcelist=_MAY_PASS, backoff_factor=limits.backoff, respect_retry_after_header=False,
    )  # fmt: skip
    headers = {"User-Agent": f"faceexpr/{__version__}", "Accept": "image/*"}
    proxy = None if proxy_bypass(address.host or "") else getproxies().get(address.scheme)
    with urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager() as pool:
        while True:
            response = pool.request(
                "GET", url, headers=headers, retries=retries, timeout=limits.timeout, preload_content=False
            )
            try:
                return _read_body(response, limits)
            except (ProtocolError, ReadTimeoutError) as error:
                retries = (response.retries or retries).increment("GET", url, error=error)  # raises at the last try
            finally:
                response.close()
            retries.sleep()


def _read_body(response: urllib3.BaseHTTPResponse, limits: Limits) -> bytes:
    if response.status != 200:
        raise LinkError(f"the server answers {response.status} {response.reason or ''}".rstrip())
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith(_NO_IMAGE):
        raise LinkError(f"it leads to {kind}; expected an image")
    most = round(limits.megabytes * 1e6)
    stated = response.headers.get("Content-Length", "")
    if stated.isdigit() and (len(stated) > 20 or int(stated) > most):
        raise LinkError(f"larger than {limits.megabytes:g} MB")
    deadline = time.monotonic() + limits.patience
    content = bytearray()
    # read1 returns what has come, so that a server which sends a byte now and then meets the deadline too.
    while chunk := response.read1(_CHUNK, decode_content=False):
        content += chunk
        if len(content) > most:
            raise LinkError(f"larger than {limits.megabytes:g} MB")
        if time.monotonic() > deadline:
            raise LinkError(f"not complete after {limits.patience:g} seconds")
    return bytes(content)
