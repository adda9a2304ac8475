"""One image from the web: http and https only, of limited size, and an image for certain."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from faceexpr import __version__
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError, read_image

_SCHEMES = ("http", "https")
_CHUNK = 1 << 16
_NO_IMAGE = ("text/", "application/json", "application/xml", "application/pdf", "audio/", "video/")
"""Content types that servers send with pages which say that there is no image; many send images without a right one."""
_MAY_PASS = (408, 425, 429)
"""HTTP statuses below 500 that may pass."""


@dataclass(frozen=True)
class Limits:
    """What a download may take.

    Args:
        megabytes: larger files are refused.
        timeout: seconds that a server may keep silent.
        patience: seconds after which a download that still goes on is given up.
        tries: how often a link is tried when its server is busy or cannot be reached.
        backoff: seconds of waiting after the first try; twice as many after each further one.
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


class _PassingError(LinkError):
    """A reason that may not hold a moment later."""


class _WebOnly(HTTPRedirectHandler):
    """Follow redirects to http and https only, whatever else urllib could open."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if urlsplit(newurl).scheme.lower() not in _SCHEMES:
            raise LinkError(f"redirected to {newurl[:80]}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, limits: Limits) -> bytes:
    """Return the bytes of the image that a link leads to.

    The image is decoded once, so that neither a page nor a truncated file passes for one.

    Raises:
        LinkError: there is none, or it breaks a limit.
    """
    for tried in range(1, limits.tries + 1):
        try:
            content = _get(url, limits)
            break
        except _PassingError as error:
            if tried == limits.tries:
                raise LinkError(f"{error}; tried {tried} times" if tried > 1 else str(error)) from error
            time.sleep(limits.backoff * 2 ** (tried - 1))
    try:
        read_image(content, reduce_to=64)
    except ImageError as error:
        raise LinkError(f"what it leads to is no good image: {error.reason}") from error
    return content


def _get(url: str, limits: Limits) -> bytes:
    opener: OpenerDirector = build_opener(_WebOnly)
    most = round(limits.megabytes * 1e6)
    try:
        if urlsplit(url).scheme.lower() not in _SCHEMES:
            raise LinkError("neither http nor https")
        # Blanks and letters beyond ASCII are common in links and not allowed in requests.
        address = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = Request(address, headers={"User-Agent": f"faceexpr/{__version__}", "Accept": "image/*"})
        with opener.open(request, timeout=limits.timeout) as response:
            kind = response.headers.get_content_type() if "Content-Type" in response.headers else ""
            if kind.startswith(_NO_IMAGE):
                raise LinkError(f"it leads to {kind}; expected an image")
            return _body(response, most, limits)
    except HTTPError as error:
        with error:
            # urllib's own words about circles of redirects go over several lines.
            reason = " ".join(f"the server answers {error.code} {error.reason}".split())
            passing = error.code >= 500 or error.code in _MAY_PASS
        raise (_PassingError if passing else LinkError)(reason) from None
    except URLError as error:
        raise _PassingError(f"the server cannot be reached: {error.reason}") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise LinkError(f"not a link: {error}") from None
    except (http.client.HTTPException, OSError) as error:
        raise _PassingError(f"the connection broke: {error or type(error).__name__}") from None


def _body(response: http.client.HTTPResponse, most: int, limits: Limits) -> bytes:
    stated = response.headers.get("Content-Length", "")
    length = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else None
    deadline = time.monotonic() + limits.patience
    content = bytearray()
    # read1 returns what has come, so that a server which sends a byte now and then meets the deadline too.
    while len(content) <= most and (length is None or length <= most):
        chunk = response.read1(_CHUNK)
        if not chunk:
            break
        content += chunk
        if time.monotonic() > deadline:
            raise LinkError(f"not complete after {limits.patience:g} seconds")
    if len(content) > most or (length or 0) > most:
        raise LinkError(f"larger than {limits.megabytes:g} MB")
    if length is not None and len(content) < length:
        raise _PassingError(f"the connection broke after {len(content):,} of {length:,} bytes")
    return bytes(content)
