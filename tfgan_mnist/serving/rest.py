"""TensorFlow Serving's REST interface as an ASGI application, its metrics, and our page.

    POST /v1/models/NAME[/versions/N | /labels/L]:predict
    GET  /v1/models/NAME[/versions/N | /labels/L][/metadata]

A path is matched together with its query; no match is a malformed request.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from tfgan_mnist.exports.request_errors import RequestError, invalid
from tfgan_mnist.serving import describe, json_answer, json_request, page
from tfgan_mnist.serving.batching import Tensors
from tfgan_mnist.serving.metrics import METRICS_PATH, Metrics
from tfgan_mnist.serving.settings import ServerConfig
from tfgan_mnist.serving.versions import DEFAULT_SIGNATURE, Models, Version

log = logging.getLogger(__name__)

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
PREDICTION = re.compile(
    rf"(?i:/v1/models/(?P<name>[^/:]+){_VERSION}):(?P<method>classify|regress|predict)"
)
STATUS = re.compile(rf"(?i)/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?")

CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # browsers take the stated content type
DRAINED = 8  # times the limit: how far a body that is too large is read
LARGE_BODY = 1 << 18  # bytes; parsed or written in a thread

Which = tuple[str, int | None, str | None]  # a model's name, version number and label


class Answer(NamedTuple):
    """Status, body and headers of a response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RestApp:
    """The application."""

    def __init__(self, models: Models, config: ServerConfig, metrics: Metrics):
        self._models = models
        self._config = config
        self._metrics = metrics
        allowed = config.allowed_hosts.lower().split(",")
        self._hosts = {config.host, "localhost", socket.gethostname().lower(), *allowed} - {""}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        try:
            answer = await self._answer(scope, receive)
        except RequestError as error:
            if error.code == "CANCELLED":  # by a client that has gone
                return
            # After these statuses the rest of the request may still arrive.
            headers = ((b"connection", b"close"),) if error.http_status in (408, 413) else ()
            answer = Answer(error.http_status, json_answer.error(error.message), headers=headers)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            answer = Answer(500, json_answer.error("Internal error; the server's log has more"))
        sent = [
            *answer.headers,
            *(CORS if self._config.rest_api_enable_cors_support else ()),
            NO_SNIFFING,
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: dict, receive: Callable) -> Answer:
        method: str = scope["method"]
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        headers = dict(scope["headers"])
        self._check_host(headers.get(b"host", b"localhost").decode("latin-1"))
        if method == "OPTIONS":
            origin = headers.get(b"origin", b"")
            return Answer(200 if origin.startswith((b"http://", b"https://")) else 400, b"")
        if target[:4].lower() == "/v1/":
            return await self._api(method, target, await self._read(headers, receive))
        if path == METRICS_PATH:
            if query:
                message = f"Unexpected path: {target}. Should be {METRICS_PATH}"
                return Answer(400, message.encode(errors="replace"), "text/plain")
            return Answer(200, self._metrics.page().encode(), "text/plain")
        reads = method in ("GET", "HEAD")
        if reads and (found := await asyncio.to_thread(page.find, scope["path"], self._models)):
            return Answer(200, *found, headers=((b"cache-control", b"no-cache"),))
        return Answer(404, b"<h1>Not Found</h1>", "text/html")

    def _check_host(self, host: str) -> None:
        """Refuses names of other hosts, which a page can have lead here (DNS rebinding)."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if "*" not in self._hosts and name not in self._hosts:
                ipaddress.ip_address(name)  # no name, so that no page can choose it
        except ValueError:
            message = f"Host {host[:100]!r}: not a name of this server; --allowed_hosts accepts it"
            raise RequestError("PERMISSION_DENIED", message) from None

    async def _api(self, method: str, target: str, body: bytes) -> Answer:
        match = (PREDICTION if method == "POST" else STATUS).fullmatch(target)
        if method == "POST" and match:
            which = _which(match)
            if match["method"] != "predict":
                raise RequestError("UNIMPLEMENTED", f"{match['method']}: expected predict")
            return await self._predict(which, body)
        if method == "GET" and match:
            return Answer(200, orjson.dumps(self._describe(_which(match), match["metadata"])))
        raise invalid(f"Malformed request: {method} {target}")

    def _describe(self, which: Which, subject: str | None) -> dict[str, Any]:
        if not which[0]:
            raise invalid("Missing model name in request.")
        if subject == "/metadata":
            with self._models.use(*which) as version:
                return describe.metadata(version)
        return describe.as_dict(describe.status(self._models.statuses(*which)))

    async def _predict(self, which: Which, body: bytes) -> Answer:
        with self._metrics.recorded(which[0] if which[0] in self._models else "", "REST"):
            with self._models.use(*which) as version:
                name, inputs, rows = await _beside(len(body), _parse, body, version)
                started = time.monotonic()
                future = asyncio.wrap_future(version.submit(name, inputs))
                try:
                    outputs = await asyncio.wait_for(future, self._config.timeout_seconds)
                except TimeoutError:
                    raise RequestError("DEADLINE_EXCEEDED", "It took too long") from None
                self._metrics.run(version.model, time.monotonic() - started)
            size = sum(array.nbytes for array in outputs.values())
            return Answer(200, await _beside(size, json_answer.answer, outputs, rows))

    async def _read(self, headers: dict[bytes, bytes], receive: Callable) -> bytes:
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
                        raise RequestError("CANCELLED", "The client has gone")
                    size += len(message["body"])
                    if size <= limit:
                        body += message["body"]
                    more = message["more_body"]
        except TimeoutError:
            raise RequestError("DEADLINE_EXCEEDED", "It did not arrive in time", 408) from None
        if headers.get(b"content-encoding", b"").lower() == b"gzip" and size <= limit:
            body = await asyncio.to_thread(_inflate, body, limit)
        if max(size, len(body)) > limit:
            text = f"The request is larger than {limit} bytes, the most that is read"
            raise RequestError("INVALID_ARGUMENT", text, 413)
        return bytes(body)


async def _beside(size: int, function: Callable, *arguments: Any) -> Any:
    """Calls a function; in a thread if it handles many bytes, so that other requests go on."""
    if size > LARGE_BODY:
        return await asyncio.to_thread(function, *arguments)
    return function(*arguments)


def _which(match: re.Match) -> Which:
    """Model name, version number and label of a path; None where it has none."""
    name, number, label = match["name"], match["version"], match["label"]
    if number and (len(number) > 19 or int(number) >= 2**63):
        raise invalid(f"Failed to convert version: {number[:40]} to numeric.")
    return unquote(name or ""), int(number) if number else None, label and unquote(label)


def _parse(body: bytes, version: Version) -> tuple[str, Tensors, bool]:
    """Signature name, inputs and whether they were in row format."""
    document = json_request.parse(body)
    name = json_request.signature_name(document) or DEFAULT_SIGNATURE
    dtypes = {key: spec.dtype.name for key, spec in version.inputs(name).items()}
    return name, *json_request.tensors(document, dtypes)


def _inflate(body: bytearray, limit: int) -> bytearray:
    """The inflated body; no more than a byte beyond the limit is ever inflated."""
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"Content-Encoding: expected gzip: {error}") from None
    if len(inflated) <= limit and not inflater.eof:
        raise invalid("Content-Encoding: expected gzip: its end is missing")
    return bytearray(inflated)
