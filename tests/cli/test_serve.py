"""``faceexpr serve``: what is answered, what is refused, what shares a batch, and the page in a browser."""

import asyncio
import http.client
import json
import re
import shutil
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
from analysis_runs import records, write
from image_files import encoded
from PIL import Image
from red_finder import RedFinder, red_picture, tiny_classifier
from stub_steps import Boxes, Levels

from faceexpr.cli.main import main
from faceexpr.cli.serve import PAGE, listen, make_server, make_service
from faceexpr.models.calibrator import Calibration
from faceexpr.pipeline.classifiers import TaskClassifier
from faceexpr.pipeline.detectors import NetDetector
from faceexpr.pipeline.pipeline import FacePipeline
from faceexpr.pipeline.serving import Service, ServiceOptions
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import FER_NAMES

OPTIONS = ServiceOptions(port=0, max_bytes=300_000, max_pixels=40_000, body_seconds=0.5, silent_seconds=0.4)


def photo(box=(30, 20, 70, 70), **options):
    return encoded(Image.fromarray(red_picture(box, **options)), "PNG")


def bomb(side):
    """A PNG file of a few bytes that says it has this many pixels a side."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@contextmanager
def served(pipeline=None, **changes):
    """Run a service in a thread, and give its address and what it is."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    if pipeline is None:
        pipeline = FacePipeline(NetDetector(RedFinder()), TaskClassifier(tiny_classifier()), max_pixels=40_000)
    service = Service(pipeline, replace(OPTIONS, **changes), 0.5)
    server = make_server(service)
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield address, service
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def ask(address, data=None, query="", path="/analyze", **headers):
    """Return the status and what was answered: of POST where there are data, or else of GET."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    with_data = data is not None
    connection.request("POST" if with_data else "GET", path + query, data, headers, encode_chunked=False)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text


@pytest.fixture(scope="module")
def service():
    with served() as (address, _):
        yield address


def test_a_file_gets_the_record_that_analyze_writes(analyze, models, workdir):
    path = write("a.png")
    analyze("a.png")
    pytest.importorskip("fastapi")
    chosen = {"detector": str(models / "detector.ckpt"), "classifier": str(models / "classifier.ckpt"), "device": "cpu"}
    made = make_service(ServiceOptions(), chosen)
    assert (made.lowest, made.min_score) == (0.2, 0.5)
    with served(made.pipeline) as (address, _):
        assert ask(address, path.read_bytes(), "?image=a.png") == (200, {**records()[0], "name": "a.png"})


def test_scores_are_those_that_are_asked_for():
    finder = RedFinder(score=0.8)
    finder.set_suppression(min_score=0.2, method="none")
    with served(FacePipeline(NetDetector(finder), Levels())) as (address, _):
        found = {score: ask(address, photo(), f"?min_score={score}") for score in ("0.3", "0.5", "0.9")}
        default = ask(address, photo())
        assert ask(address, photo(), "?min_score=0.1")[0] == ask(address, photo(), "?min_score=x")[0] == 400
    assert {score: len(record["faces"]) for score, (_, record) in found.items()} == {"0.3": 2, "0.5": 1, "0.9": 0}
    assert default == found["0.5"]


def test_sets_come_without_an_option_where_the_classifier_has_them(models, monkeypatch):
    chosen = {"detector": str(models / "detector.ckpt"), "classifier": str(models / "classifier.ckpt"), "device": "cpu"}
    assert make_service(ServiceOptions(), chosen).describe()["sets"] is False
    monkeypatch.setattr(TaskClassifier, "calibration", Calibration(thresholds={"0.9": 0.8}), raising=False)
    monkeypatch.setattr(TaskClassifier, "__setattr__", lambda self, name, value: (
        None if name == "calibration" else object.__setattr__(self, name, value)
    ))  # fmt: skip
    assert make_service(ServiceOptions(), chosen).pipeline.threshold == 0.8


TRUNCATED = photo()[:-60]


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", 400, "the body is empty"),
        (b"hello", 415, "not an image"),
        (b"%PDF-1.7 " + bytes(100), 415, "format not supported: PDF"),
        (TRUNCATED, 422, "truncated"),
        (bomb(10_000), 413, "too large: 10000 x 10000 pixels, the limit is 40,000"),
        (bytes(300_001), 413, "expected 300,000 bytes or fewer"),
        (bytes(3_000_000), 413, "expected 300,000 bytes or fewer"),
    ],
)
def test_what_cannot_be_analysed_is_refused_in_one_sentence(service, data, status, said):
    found, answer = ask(service, data)
    assert found == status
    assert said in answer["detail"]
    assert ask(service, photo())[0] == 200


def test_forms_and_other_methods_are_refused(service):
    status, answer = ask(service, b"--x", **{"Content-Type": "multipart/form-data; boundary=x"})
    assert status == 415
    assert "curl --data-binary @photo.jpg" in answer["detail"]
    assert (ask(service)[0], ask(service, path="/no")[0], ask(service, path="/docs")[0]) == (405, 404, 404)


def test_a_large_image_that_shrinking_leaves_large_is_refused():
    system = FacePipeline(Boxes(), Levels(), reduce_to=None, max_pixels=10**9)
    with served(system, max_bytes=10**6) as (address, _):
        status, answer = ask(address, encoded(Image.new("1", (5000, 4000)), "PNG"))
    assert (status, answer["detail"][:41]) == (413, "the image is too large, 5000 x 4000 when ")


def test_images_that_come_together_share_a_batch_and_keep_their_owner():
    class Slow(Boxes):
        def __call__(self, images):
            time.sleep(0.3)
            batches.append(len(images))
            return super().__call__(images)

    batches = []
    colours = {"Red": (200, 0, 0), "Green": (0, 200, 0), "Blue": (0, 0, 200)}
    files = {name: encoded(Image.new("RGB", (40, 40), colour), "PNG") for name, colour in colours.items()}
    with served(FacePipeline(Slow([0, 0, 20, 20]), Levels())) as (address, _), ThreadPoolExecutor(9) as callers:
        jobs = [(name, callers.submit(ask, address, files[name], f"?image={name}")) for name in [*files] * 3]
        answers = [(name, job.result()[1]) for name, job in jobs]
    assert [(answer["image"], answer["faces"][0]["expression"]) for _, answer in answers] == [
        (name, name) for name, _ in answers
    ]
    assert sum(batches) == 9
    assert len(batches) <= 3


def test_an_image_that_makes_a_batch_fail_fails_alone():
    class Weak(Boxes):
        def __call__(self, images):
            time.sleep(0.2)
            if any(image.shape[1] == 13 for image in images):
                raise RuntimeError("out of memory")
            return super().__call__(images)

    with served(FacePipeline(Weak(), Levels())) as (address, _), ThreadPoolExecutor(6) as callers:
        widths = [40, 40, 13, 40, 40]
        jobs = [callers.submit(ask, address, photo(None, width=width)) for width in widths]
        found = [job.result() for job in jobs]
    assert [status for status, _ in found] == [200, 200, 500, 200, 200]
    assert found[2][1]["detail"] == "the analysis of this image has failed (RuntimeError: out of memory)"


def test_beyond_the_queue_and_the_time_images_are_refused_and_the_service_goes_on():
    class Slow(Boxes):
        def __call__(self, images):
            time.sleep(0.6)
            return super().__call__(images)

    system = FacePipeline(Slow(), Levels(), batch_size=1)
    with served(system, queue=2, seconds=0.9) as (address, _), ThreadPoolExecutor(5) as callers:
        jobs = [callers.submit(ask, address, photo()) for _ in range(5)]
        answers = [job.result() for job in jobs]
        refused = sorted(answer["detail"][:9] for status, answer in answers if status == 503)
        assert [status for status, _ in answers].count(200) == 1
        assert refused == ["2 images "] * 3 + ["the analy"]
        time.sleep(0.5)  # what was given up is looked at to its end
        assert ask(address, photo())[0] == 200


def start_request(address, length, sent):
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(f"POST /analyze HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + sent)
    return connection


def test_half_sent_files_and_silent_connections_are_ended_and_others_served(service):
    slow = [start_request(service, 5000, photo()[:60]) for _ in range(40)]
    gone = start_request(service, 5000, b"\x89PNG")
    gone.close()
    silent = [socket.create_connection(service, timeout=10) for _ in range(200)]
    for connection in silent[100:]:
        connection.sendall(b"POST /analyze HTTP/1.1\r\nHost:")
    begun = time.monotonic()
    assert ask(service, photo())[0] == 200
    assert time.monotonic() - begun < 2
    answers = [b"".join(iter(partial(connection.recv, 4000), b"")).decode() for connection in slow]
    assert {answer.partition("\r\n")[0] for answer in answers} == {"HTTP/1.1 408 Request Timeout"}
    assert all("has not come within 0.5 seconds" in answer for answer in answers)
    assert all(ended(connection) for connection in silent)
    assert ask(service, path="/health")[1]["working"] == 0


def ended(connection):
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def test_memory_for_files_is_bounded_however_many_send(monkeypatch):
    monkeypatch.setattr("faceexpr.pipeline.serving.HELD", 250_000)
    with served(max_bytes=200_000) as (address, service):
        slow = start_request(address, 190_000, bytes(180_000))
        while service._held < 180_000:
            time.sleep(0.01)
        status, answer = ask(address, bytes(150_000))
        assert (status, answer["detail"][:34]) == (503, "too many files come at once; try a")
        slow.close()
        assert ask(address, photo())[0] == 200
    assert service._held == 0


def test_health_and_the_page_need_nothing_from_elsewhere(service):
    _, health = ask(service, path="/health")
    assert health["status"] == "ok"
    assert tuple(health["class_names"]) == FER_NAMES
    page = ask(service, path="/")[1]
    assert page == PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|@import|url\(", page)


def test_wrong_options_are_one_sentence(capsys, models):
    for args, said in [
        (["--port", "99999"], "--port is 99999; expected 0 to 65535"),
        (["--queue", "0"], "--queue is 0; expected more than 0"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *args])
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"faceexpr serve: error: {said}\n"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(FaceExprError, match=r"port is .*in use"):
        listen(*taken.getsockname())
    with pytest.raises(FaceExprError, match=r"cannot be had at no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 8000)


def test_time_and_queue_do_not_need_a_server():
    service = Service(FacePipeline(Boxes(), Levels()), OPTIONS, 0.5)

    async def body():
        yield photo()

    async def both():
        work = asyncio.create_task(service.work())
        found = await asyncio.gather(service.answer(body(), "a", None), service.answer(body(), "b", 0.7))
        work.cancel()
        return found

    assert [(record["image"], record["status"]) for record in asyncio.run(both())] == [("a", "ok"), ("b", "ok")]
    assert service.batches == 1


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium")
    options = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()


def test_the_page_shows_faces_errors_and_the_camera(browser, tmp_path):
    finder = RedFinder(score=0.9)
    finder.set_suppression(min_score=0.2, method="none")
    system = FacePipeline(NetDetector(finder), Levels(), max_pixels=10**6)
    system.threshold = 0.9
    with served(system) as (address, _):
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        foreign = []
        page.on("request", lambda request: foreign.append(request.url))
        page.goto(f"http://{address[0]}:{address[1]}/")
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": photo()})
        page.wait_for_selector(".face")
        assert page.inner_text("#status") == "1 face, and 1 below the least score."
        assert page.inner_text(".face h3").startswith("1. Red ")
        assert page.inner_text(".face p").startswith("May be: Red")
        assert page.locator(".face tr").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_attribute("#canvas", "aria-label").startswith("a.png: 1 face: Red")
        page.focus("#score")
        for _ in range(25):
            page.keyboard.press("ArrowLeft")
        assert page.locator(".face").count() == 2
        page.set_input_files("#file", {"name": "b.jpg", "mimeType": "image/jpeg", "buffer": b"no image"})
        page.wait_for_selector("#error:not(:empty)")
        assert page.inner_text("#error") == "b.jpg: the image cannot be read: not an image."
        assert not page.is_visible("#result")
        page.click("#camera")
        page.wait_for_selector('#canvas[aria-label^="camera"]')
        assert page.get_attribute("#camera", "aria-pressed") == "true"
        page.click("#camera")
        assert page.get_attribute("#camera", "aria-pressed") == "false"
        assert all(url.startswith((f"http://{address[0]}:{address[1]}/", "data:", "blob:")) for url in foreign)
        page.close()
