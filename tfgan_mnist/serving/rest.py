"""TensorFlow Serving's REST interface as an ASGI application, its metrics, and our page.

    POST /v1/models/NAME[/versions/N | /labels/L]:predict
    GET  /v1/models/NAME[/versions/N | /labels/L][/metadata]

and for the page, which TensorFlow Serving does not have:

    GET  /models.json       the models that draw
    GET  /onnx/NAME.onnx    a model, to run in the browser

A path is matched together with its query; no match is a malformed request.
"""

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from tfgan_mnist.errors import UserError
from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving import describe, json_answer, json_reader, json_request, page
from tfgan_mnist.serving.metrics import Metrics
from tfgan_mnist.serving.settings import ServerConfig
from tfgan_mnist.serving.versions import DEFAULT_SIGNATURE, Models

log = logging.getLogger(__name__)

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICTION = re.compile(
    rf"(?i)/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)"
)
METHODS = ("classify", "regress", "predict")  # in lower case, unlike the rest of a path
STATUS = re.compile(rf"(?i)/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?")
ONNX = re.compile(r"/onnx/(?P<name>[^/]+)\.onnx")

NOT_FOUND = b"<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>"
CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # browsers take the stated content type
JSON = b"application/json"
DRAINED = 8  # times the limit: how far a body that is too large is read
LARGE_BODY = 1 << 18  # bytes; parsed or written in a thread


Which = tuple[str, int | None, str | None]  # a model's name, version number and label


class Answer(NamedTuple):
    """Status, body and headers of a response."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RestApp:
    """The application.

    Args:
      models: to serve.
      config: of the server; its limits.
      metrics: where requests are recorded.
      metrics_path: where to read them; None: nowhere.
    """

    def __init__(
        self, models: Models, config: ServerConfig, metrics: Metrics, metrics_path: str | None
    ):
        self._models = models
        self._config = config
        self._cors = config.rest_api_enable_cors_support
        self._metrics = metrics
        self._metrics_path = metrics_path
        self._hosts = {config.host, "localhost", socket.gethostname().lower()}
        self._hosts |= set(filter(None, config.allowed_hosts.lower().split(",")))

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        try:
            answer = await self._guarded(scope, receive)
        except Disconnected:
            return
        headers = [*answer.headers, NO_SNIFFING, *(CORS if self._cors else ())]
        if answer.status != 304:
            length = str(len(answer.body)).encode()
            headers += [(b"content-type", answer.content_type), (b"content-length", length)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _guarded(self, scope: dict, receive: Callable) -> Answer:
        """The answer; errors become answers too."""
        try:
            return await self._answer(scope, receive)
        except Disconnected:
            raise
        except RequestError as error:
            # After these statuses the rest of the request may still arrive.
            headers = ((b"connection", b"close"),) if error.http_status in (408, 413) else ()
            return Answer(error.http_status, json_answer.error(error.message), headers=headers)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            return Answer(500, json_answer.error("Internal error; the server's log has more"))

    async def _answer(self, scope: dict, receive: Callable) -> Answer:
        method: str = scope["method"]
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        self._check_host(dict(scope["headers"]).get(b"host", b"localhost").decode("latin-1"))
        if method == "OPTIONS":
            origin = dict(scope["headers"]).get(b"origin", b"")
            return Answer(200 if origin.startswith((b"http://", b"https://")) else 400, b"")
        if target[:4].lower() == "/v1/":
            return await self._api(method, target, scope, receive)
        if self._metrics_path and path == self._metrics_path:
            return self._show_metrics(target)
        if method in ("GET", "HEAD") and (match := ONNX.fullmatch(scope["path"])):
            return await self._onnx(match["name"], scope)
        if method in ("GET", "HEAD") and path == f"/{page.MODELS}":
            return Answer(200, orjson.dumps({"models": self._drawing_models()}))
        if method in ("GET", "HEAD") and path == f"/{page.REAL_DIGITS}":
            return Answer(200, await asyncio.to_thread(page.real_digits), b"image/png")
        if method in ("GET", "HEAD") and (found := page.find(scope["path"])):
            encoding = ((b"content-encoding", b"gzip"),) if found.gzipped else ()
            return await self._file(found.path, found.content_type, scope, encoding)
        return Answer(404, NOT_FOUND, b"text/html")

    def _check_host(self, host: str) -> None:
        """Refuses names of other machines, as a page's own name may lead here (DNS rebinding).

        An address is no name, and no page can choose it.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if "*" in self._hosts or name in self._hosts:
                return
            ipaddress.ip_address(name)
        except ValueError:
            message = f"Host {host[:100]!r}: not a name of this server; --allowed_hosts accepts it"
            raise RequestError("PERMISSION_DENIED", message) from None

    def _drawing_models(self) -> list[dict[str, Any]]:
        found = []
        for model in self._models:
            with contextlib.suppress(RequestError, UserError):  # not loaded, or not ours
                found.append(page.facts(model.name, model.find(None, None).folder))
        return found

    async def _onnx(self, name: str, scope: dict) -> Answer:
        """The weights that are served, from `7.onnx` beside the version `7/`."""
        with self._models.use(name) as version:
            file = version.folder.with_name(f"{version.folder.name}.onnx")
            try:
                return await self._file(file, page.TYPES[".onnx"], scope)
            except OSError:
                message = f"There is no ONNX file of version {version.number} of {name}"
                raise RequestError("NOT_FOUND", message) from None

    async def _file(self, path: Path, content_type: str, scope: dict, headers=()) -> Answer:
        """A file, or 304 to a browser that has the same."""
        body, tag = await asyncio.to_thread(page.content, path)
        headers = (*headers, (b"etag", tag), (b"cache-control", b"no-cache"))
        if dict(scope["headers"]).get(b"if-none-match") == tag:
            return Answer(304, b"", headers=headers)
        return Answer(200, body, content_type.encode(), headers)

    def _show_metrics(self, target: str) -> Answer:
        if target != self._metrics_path:
            message = f"Unexpected path: {target}. Should be {self._metrics_path}"
            return Answer(400, message.encode(errors="replace"), b"text/plain")
        return Answer(200, self._metrics.page().encode(), b"text/plain")

    async def _api(self, method: str, target: str, scope: dict, receive: Callable) -> Answer:
        body = await self._read(scope, receive)
        match = (PREDICTION if method == "POST" else STATUS).fullmatch(target)
        if method == "POST" and match and match["method"] in METHODS:
            which = _which(match)
            if match["method"] != "predict":
                raise RequestError("UNIMPLEMENTED", f"{match['method']}: expected predict")
            return await self._predict(which, body)
        if method == "GET" and match:
            return self._describe(*_which(match), match["metadata"] == "/metadata")
        raise invalid(f"Malformed request: {method} {target}")

    async def _read(self, scope: dict, receive: Callable) -> bytes:
        """The body, inflated.

        More than the limit is read, as a client that is still writing does not see the refusal.
        """
        limit = self._config.rest_api_max_body_bytes
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(self._config.timeout_seconds):
                while more and size <= DRAINED * limit:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    size += len(message["body"])
                    if size <= limit:
                        body += message["body"]
                    more = message["more_body"]
        except TimeoutError:
            message = "The request did not arrive in time"
            raise RequestError("DEADLINE_EXCEEDED", message, 408) from None
        if size > limit:
            raise _too_large(limit)
        encoding = dict(scope["headers"]).get(b"content-encoding", b"identity").lower()
        if encoding == b"gzip":
            return await asyncio.to_thread(_inflate, bytes(body), limit)
        if encoding != b"identity":
            raise invalid("Content-Encoding: expected gzip or none")
        return bytes(body)

    async def _predict(self, which: Which, body: bytes) -> Answer:
        arrival, code = time.monotonic(), "INTERNAL"
        try:
            answer = await self._run(which, body)
            code = "OK"
            return answer
        except RequestError as error:
            code = error.code
            raise
        finally:
            # Unknown names are arbitrary, and would fill the memory.
            name = which[0] if which[0] in self._models else ""
            seconds = time.monotonic() - arrival
            self._metrics.request(name, "Predict", "REST", code, seconds)

    async def _run(self, which: Which, body: bytes) -> Answer:
        with self._models.use(*which) as version:
            name, inputs, rows = await _beside(len(body), _parse, body, version)
            started = time.monotonic()
            future = asyncio.wrap_future(version.submit(name, inputs))
            try:
                outputs = await asyncio.wait_for(future, self._config.timeout_seconds)
            except TimeoutError:
                raise RequestError("DEADLINE_EXCEEDED", "The request took too long") from None
            self._metrics.run(version.model, "Predict", time.monotonic() - started)
        size = sum(array.nbytes for array in outputs.values())
        return Answer(200, await _beside(size, json_answer.answer, outputs, rows))

    def _describe(self, name: str, number: int | None, label: str | None, metadata: bool) -> Answer:
        if not name:
            raise invalid("Missing model name in request.")
        if metadata:
            with self._models.use(name, number, label) as version:
                return Answer(200, orjson.dumps(describe.metadata(version)))
        statuses = self._models.statuses(name, number, label)
        return Answer(200, orjson.dumps(describe.as_dict(describe.status(statuses))))


class Disconnected(Exception):
    """The client has closed the connection."""


async def _beside(size: int, function: Callable, *arguments: Any) -> Any:
    """Calls a function; in a thread if it handles many bytes, so that other requests go on."""
    if size > LARGE_BODY:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def _which(match: re.Match) -> Which:
    """Model name, version number and label of a path; None where it has none."""
    name, number, label = match["name"], match["version"], match["label"]
    # 20 digits are more than any 64-bit number has; int() refuses thousands.
    digits = number and (number.lstrip("0") or "0")
    if digits and (len(digits) > 19 or int(digits) >= 2**63):
        raise invalid(f"Failed to convert version: {digits[:40]} to numeric.")
    return unquote(name or ""), int(digits) if digits else None, label and unquote(label)


def _parse(body: bytes, version: Any) -> tuple[str, json_request.Tensors, bool]:
    """Signature name, inputs and whether they were in row format."""
    document = json_reader.parse(body)
    name = json_request.signature_name(document) or DEFAULT_SIGNATURE
    dtypes = {key: spec.dtype for key, spec in version.inputs(name).items()}
    if not dtypes:  # `submit` refuses it too, but rows of no input cannot be parsed
        raise invalid(f"Failed to get input map for signature: {name}")
    inputs, rows = json_request.tensors(document, dtypes)
    return name, inputs, rows


def _inflate(body: bytes, limit: int) -> bytes:
    """The inflated body; no more than the limit is ever inflated."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"Content-Encoding: expected gzip: {error}") from None
    if len(inflated) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise invalid("Content-Encoding: expected gzip: it does not end where the body ends")
    return inflated


def _too_large(limit: int) -> RequestError:
    return RequestError(
        "INVALID_ARGUMENT", f"The request is larger than {limit} bytes, the most that is read", 413
    )
