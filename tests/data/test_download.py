"""Downloading from a server that misbehaves in every way we know."""

import contextlib
import csv
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import encoded, smooth_image

from faceexpr.cli.fetch import run
from faceexpr.data.annotations.parsing import fetched_name
from faceexpr.data.annotations.reading import ReadOptions, read_annotations
from faceexpr.data.download import Limits, LinkError, download, list_links
from faceexpr.utils.errors import FaceExprError

PNG = encoded(smooth_image(40, 30), "PNG")
OTHER = encoded(smooth_image(20, 10, seed=1), "PNG")
QUICK = Limits(backoff=0.0, timeout=2.0, megabytes=0.1)
HUGE = encoded(smooth_image(8, 8), "BMP") + bytes(200_000)

ANSWERS: dict[str, dict[str, Any]] = {
    "/always_busy.png": {"status": 503, "body": b"busy"},
    "/dead.png": {"status": 404, "body": b"gone"},
    "/page.png": {"body": b"<html>", "kind": "text/html"},
    "/lie.png": {"body": b"<html>no image</html>"},
    "/short.png": {"body": PNG[:-40], "length": len(PNG)},
    "/cut.png": {"body": PNG[: len(PNG) // 2], "length": None},
    "/huge.bmp": {"body": HUGE},
    "/endless.bmp": {"body": HUGE, "length": None},
}


class Server(ThreadingHTTPServer):
    """Answers by path, and counts."""

    asked: Counter[str]
    daemon_threads = True

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path
        self.server.asked[path] += 1
        if path.startswith("/to/") or path == "/circle":
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/"))
            self.end_headers()
        elif path == "/slow.png":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for byte in PNG[:40]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
        elif path == "/busy.png" and self.server.asked[path] < 3:
            self.answer(b"busy", 503)
        else:
            self.answer(**ANSWERS.get(path, {"body": OTHER if path.startswith("/b/") else PNG}))

    def answer(self, body: bytes, status: int = 200, kind: str = "image/png", length: int | None = -1) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def end_headers(self) -> None:
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = Counter()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "reason", "tries"),
    [
        ("/dead.png", "404", 1),
        ("/page.png", "text/html; expected an image", 1),
        ("/lie.png", "no good image: not an image", 1),
        ("/always_busy.png", "gave up: too many 503", 3),
        ("/short.png", "gave up: .* bytes read", 3),
        ("/cut.png", "no good image: truncated", 1),
        ("/huge.bmp", "larger than 0.1 MB", 1),
        ("/endless.bmp", "larger than 0.1 MB", 1),
        ("/circle", "too many redirects", 11),
        ("/to/file:///etc/hostname", "no link that can be followed", 1),
    ],
)
def test_what_is_no_image_is_refused(path: str, reason: str, tries: int, server: Server) -> None:
    with pytest.raises(LinkError, match=reason) as error:
        download(server.root + path, QUICK)
    assert server.asked[path] == tries
    assert "\n" not in str(error.value)


def test_a_server_that_is_not_there_or_never_comes_to_an_end_is_given_up(server: Server) -> None:
    with pytest.raises(LinkError, match=r"gave up: .*refused"):
        download("http://127.0.0.1:1/a.png", QUICK)
    with pytest.raises(LinkError, match=r"not complete after 0.2 seconds"):
        download(f"{server.root}/slow.png", Limits(patience=0.2))
    for url in ("file:///etc/hostname", "http://[", "x.png"):
        with pytest.raises(LinkError):
            download(url, QUICK)


def test_a_busy_server_is_asked_again_and_redirects_are_followed(server: Server) -> None:
    assert download(f"{server.root}/busy.png", QUICK) == PNG
    assert server.asked["/busy.png"] == 3
    assert download(f"{server.root}/to/{server.root}/b/1.png", QUICK) == OTHER
    assert download(f"{server.root}/my group ü.png", QUICK) == PNG


def test_names_are_told_by_the_link_alone_and_stay_in_the_folder() -> None:
    links = ["http://h/a/1.jpg", "http://h/b/1.jpg", "http://h/1.jpg?x=1", "http://h/..", "http://h/%2e%2e%2fx.png",
             "http://h/" + "ä" * 400 + ".JPG", "http://h", "http://h/.hidden.png", "http://h/a%00b.png"]  # fmt: skip
    names = [fetched_name(link) for link in links]
    assert len(set(names)) == len(links)
    for name in names:
        assert Path(name).name == name
        assert not name.startswith(".")
        assert "\0" not in name
        assert len(name.encode()) <= 255
        assert Path(name).suffix in (".jpg", ".png")
    assert names[0] == fetched_name(links[0])


def annotations(folder: Path, *links: str) -> Path:
    box = '{"label": ["Face"], "points": [{"x": 0, "y": 0}, {"x": 0.5, "y": 0.5}]}'
    path = folder / "faces.json"
    path.write_text("\n".join(f'{{"content": "{link}", "annotation": [{box}]}}' for link in links))
    return path


def test_fetch_goes_on_reports_dead_links_and_is_read_again(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    links = [f"{server.root}/a/1.png", f"{server.root}/b/1.png", f"{server.root}/dead.png",
             f"file://{tmp_path}/secret.png", f"{server.root}/a/1.png"]  # fmt: skip
    path, out = annotations(tmp_path, *links), tmp_path / "new/images"
    command = ["fetch", str(path), "--out", str(out), "--backoff", "0"]
    with pytest.raises(SystemExit) as end:
        run(command)
    assert end.value.code == 3
    assert "4 links: 2 fetched, 0 there before, 2 failed" in capsys.readouterr().out
    with (out / "links.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    statuses = ("fetched", "fetched", "failed", "failed")
    assert [(row["url"], row["status"]) for row in rows] == list(zip(links[:4], statuses, strict=True))
    assert "404" in rows[2]["reason"]
    assert rows[3]["reason"] == "neither http nor https"
    assert sorted(entry.name for entry in out.iterdir()) == sorted([rows[0]["file"], rows[1]["file"], "links.csv"])

    found = read_annotations(path, out, options=ReadOptions(missing="leave_out"))
    assert [(image.size, len(image.boxes)) for image in found.images] == [((40, 30), 1), ((20, 10), 1)]
    np.testing.assert_array_equal(found.images[1].boxes, [[0, 0, 10, 5]])

    (out / rows[1]["file"]).write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        run(command)
    assert "4 links: 1 fetched, 1 there before, 2 failed" in capsys.readouterr().out
    assert server.asked == {"/a/1.png": 1, "/b/1.png": 2, "/dead.png": 2}
    assert (out / rows[1]["file"]).read_bytes() == OTHER


def test_annotations_without_links_and_bad_options_are_said(tmp_path: Path) -> None:
    path = annotations(tmp_path, "a.png")
    with pytest.raises(FaceExprError, match=r"faces\.json has no links"):
        list_links(path)
    with pytest.raises(FaceExprError, match="--tries is 0; expected more than 0"):
        run(["fetch", str(path), "--out", str(tmp_path), "--tries", "0"])
