"""``faceexpr serve``: the two-step system as a service, with a page for the browser."""

# No `from __future__ import annotations`: FastAPI asks for the types of the handlers' parameters, which are local.
import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from faceexpr import __version__
from faceexpr.cli.analyze import AnalyzeOptions, build
from faceexpr.cli.parser import Parser, naming_options
from faceexpr.pipeline.serving import RefusedError, Service, ServiceOptions
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say

DESCRIPTION = (
    "Serve a page on which photographs and the camera are analysed, and POST /analyze, which takes an image file and "
    "returns what `faceexpr analyze` writes. Nothing is stored. Only this machine reaches it without --host."
)

PIPELINE = {
    "detector", "classifier", "min_score", "max_faces", "suppression", "iou", "inside", "test_side",
    "min_probability", "margin", "shape", "min_face", "reduce_to", "device", "runtime", "batch_size", "face_batch",
}  # fmt: skip
"""Options that are those of ``faceexpr analyze``."""

LOWEST, COVERAGE = 0.2, "0.9"
"""Score down to which the page shows faces; coverage of the sets where none is stated, and the classifier has it."""

CONNECTIONS = 512
"""Connections beyond which requests are answered with 503; a process may often have 1,024 files open."""

PAGE = Path(__file__).with_suffix(".html")

HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every answer: the page loads nothing from elsewhere, and no browser keeps an answer."""


def run(args: list[str]) -> None:
    """Run ``faceexpr serve``, given the arguments with the verb, until Ctrl-C is pressed."""
    parser = Parser(prog="faceexpr serve", description=DESCRIPTION)
    parser.add_argument("--config", action="config", help="YAML file with the options below.")
    parser.add_class_arguments(AnalyzeOptions, skip={option.name for option in fields(AnalyzeOptions)} - PIPELINE)
    parser.add_class_arguments(ServiceOptions)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        options = ServiceOptions(**{option.name: config[option.name] for option in fields(ServiceOptions)})
        server = make_server(make_service(options, {name: config[name] for name in PIPELINE if name in config}))
        listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    say(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends)")
    if not ip_address(host).is_loopback:
        say(f"anybody who reaches {host} can send images: there is no password")
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        say("ended")


def make_service(options: ServiceOptions, analysis: Mapping[str, Any]) -> Service:
    """Build the service that options, and those of `AnalyzeOptions`, describe."""
    chosen: dict[str, Any] = {**analysis, "coverage": options.coverage, "max_pixels": options.max_pixels}
    min_score = AnalyzeOptions(out=Path(), **chosen).min_score
    pipeline = build(AnalyzeOptions(out=Path(), **{**chosen, "min_score": min(LOWEST, min_score)}))
    # Other methods give a box another score, or another place, where less sure ones lie on it.
    if getattr(getattr(pipeline.detector, "suppression", None), "method", None) not in ("nms", "none"):
        pipeline = build(AnalyzeOptions(out=Path(), **chosen))
    calibration = getattr(pipeline.classifier, "calibration", None)
    if options.coverage is None and calibration is not None and COVERAGE in calibration.thresholds:
        pipeline.threshold = calibration.threshold(float(COVERAGE))
    return Service(pipeline, options, min_score)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; a `FaceExprError` where the address is taken or is none of this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except (OSError, UnicodeError) as error:
        raise FaceExprError(f"port is {port}, which cannot be had at {host}: {error}; expected another one") from error


def make_server(service: Service) -> Any:
    """Return uvicorn's server of a service, which is to ``run`` with a socket.

    Raises:
        FaceExprError: FastAPI or uvicorn is not installed.
    """
    try:
        import uvicorn
        from fastapi import FastAPI, Request
        from fastapi.responses import HTMLResponse, JSONResponse
        from starlette.requests import ClientDisconnect
    except ImportError as error:
        raise FaceExprError("serve needs FastAPI and uvicorn: pip install 'faceexpr[serve]'") from error

    def refuse(status: int, sentence: str) -> JSONResponse:
        headers = {**HEADERS, "Connection": "close", **({"Retry-After": "2"} if status == 503 else {})}
        return JSONResponse({"detail": sentence}, status, headers)

    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=HEADERS)

    async def health() -> JSONResponse:
        return JSONResponse(service.describe(), headers=HEADERS)

    async def analyze(request: Request, image: str = "image", min_score: str | None = None) -> JSONResponse:
        kind = request.headers.get("content-type", "")
        if kind.startswith(("multipart/", "application/json")):
            expected = "the file itself, as `curl --data-binary @photo.jpg` sends it"
            return refuse(415, f"the body is {kind.partition(';')[0]}; expected {expected}")
        try:
            return JSONResponse(await service.answer(request.stream(), image[:1000], min_score), headers=HEADERS)
        except RefusedError as error:
            return refuse(error.status, str(error))
        except ClientDisconnect:  # nobody reads it
            return refuse(400, "the file ends before its end; expected all of it")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        silent = close_silent(server.server_state.connections, service.options.silent_seconds)
        tasks = [asyncio.create_task(task) for task in (service.work(), silent)]
        yield
        for task in tasks:
            task.cancel()

    # FastAPI's pages of documentation would load scripts from elsewhere; /openapi.json says the same.
    app = FastAPI(title="faceexpr", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/health", health)
    body = {"requestBody": {"required": True, "content": {"image/*": {}}}}
    app.add_api_route("/analyze", analyze, methods=["POST"], openapi_extra=body)
    options: dict[str, Any] = {"http": "h11", "ws": "none", "lifespan": "on", "log_level": "error", "access_log": False}
    limits: dict[str, Any] = {"limit_concurrency": CONNECTIONS, "timeout_graceful_shutdown": 3}
    server = uvicorn.Server(uvicorn.Config(app, server_header=False, **options, **limits))
    return server


async def close_silent(connections: Set[Any], seconds: float) -> None:
    """Close those of uvicorn's connections that have sent no whole head of a request for so long; it would wait."""
    since: dict[tuple[Any, Any], float] = {}
    while True:
        await asyncio.sleep(min(1, seconds / 4))
        idle = ((each, each.cycle) for each in connections if each.cycle is None or each.cycle.response_complete)
        since = {key: since.get(key, time.monotonic()) for key in idle}
        for (connection, _), start in since.items():
            if time.monotonic() - start > seconds:
                connection.transport.abort()
