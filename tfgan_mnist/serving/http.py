"""The HTTP server: uvicorn, with bounds on what a connection may take and how long.

Uvicorn bounds neither the time nor the size of a request's head, nor how many requests may wait on
a connection, nor how long it keeps an answer that nobody fetches; it drops a client that has said
all it had to say; it loses the body of a request that offers an upgrade; and what it refuses
itself, it refuses as plain text, before the answers that are due.

That is mended in a subclass, which knows more of uvicorn than its documentation promises (`cycle`,
`pipeline`, `flow`, the parser's callbacks): a new release of uvicorn is to be taken with the tests.
"""

import asyncio
import re
import socket
import threading
import time
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfgan_mnist.serving import json_tensor

MAX_CONNECTIONS = 512  # of the 1024 files that a process may usually open; half as many are refused
MAX_HEAD = 1 << 16  # bytes
MAX_PIPELINED = 64  # requests that wait on a connection for those before them
KEEP_ALIVE_SECONDS = 60
LINGER_SECONDS = 2


def _raw(status: str, message: str) -> bytes:
    body = json_tensor.error(message)
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class BoundedProtocol(HttpToolsProtocol):
    """A connection. What it may do without an answer of the application is bounded here."""

    timeout_seconds = 30.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # An answer's head and body are written separately, and asyncio sees to this for sockets
        # of its own making only; the body would wait 40 ms for the head's acknowledgement.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.waiting_since = time.monotonic()  # for a request, or for its answer to be fetched
        self.head_bytes = 0  # of the present request: all but its body
        self.in_message = False
        self.arriving: Any = None  # the cycle of the request whose body is arriving
        self.unanswered = 0  # cycles
        self.refusal: bytes | None = None  # to be written when all before it is answered
        self.ended = False  # nothing more is written
        self.half_closed = False  # by the client
        if len(self.connections) > 3 * MAX_CONNECTIONS // 2:
            self.ended = True
            transport.abort()
        elif len(self.connections) > MAX_CONNECTIONS:
            self.refuse("503 Service Unavailable", "Too many connections")

    def data_received(self, data: bytes) -> None:
        if self.refusal is not None or self.ended:
            return  # read, but not looked at; see `refuse`
        self._unset_keepalive_if_required()
        self.head_bytes += len(data)
        self._parse(data)
        if self.in_message and self.head_bytes > MAX_HEAD:
            self.refuse("431 Request Header Fields Too Large", f"More than {MAX_HEAD} bytes")

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                # To whoever offers another protocol (as HTTP/2 by `h2c`), a server may go on in
                # this one. The parser skips the body then, so the request is parsed again.
                data = self._without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                return self.refuse("400 Bad Request", "Invalid HTTP request received.")

    def _without_upgrade(self) -> bytes:
        """The head of the present request, less what offers an upgrade."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        head = [method + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(o for o in options if o.lower() in (b"close", b"keep-alive"))
            if name not in (b"upgrade", b"http2-settings"):
                head.append(name + b": " + re.sub(rb"[\r\n]+", b" ", value))
        return b"\r\n".join([*head, b"", b""])

    def on_message_begin(self) -> None:
        self.in_message = True
        self.waiting_since = time.monotonic()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("there is nothing to connect to")
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError(f"{MAX_PIPELINED} requests wait already")
        super().on_headers_complete()
        self.arriving = self.cycle
        self.unanswered += 1

    def on_body(self, body: bytes) -> None:
        # A chunk of a single byte comes with five that say so.
        self.head_bytes -= 16 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.in_message = False
        self.arriving = None
        self.head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.waiting_since = time.monotonic()
        self.unanswered -= 1
        super().on_response_complete()
        if self.refusal is not None and not self.unanswered:
            self._end()

    def resume_writing(self) -> None:
        self.waiting_since = time.monotonic()  # some of the answer was fetched
        super().resume_writing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has said all it has to say; whether it is still to get an answer."""
        self.half_closed = True
        if self.arriving and not self.arriving.response_started:
            self.arriving.scope["state"]["truncated"] = True
            self.arriving.more_body = False
            self.arriving.message_event.set()
        elif self.in_message and self.refusal is None and not self.ended:
            self.refuse("400 Bad Request", "The request ended before its head did")
        if self.unanswered and self.refusal is None:
            self.cycle.keep_alive = False
        return self.unanswered > 0

    def send_400_response(self, msg: str) -> None:
        self.refuse("400 Bad Request", msg)

    def refuse(self, status: str, message: str) -> None:
        """Answers the request that is arriving in place of the application, and closes.

        The requests before it get their answers first. If it has an answer already, there is none
        from here. What the client is still sending is read for a while: to close before would make
        its system drop the answers.
        """
        self.refusal = _raw(status, message)
        cycle = self.arriving
        if cycle and cycle.response_started:
            self.refusal = b""
        elif cycle:
            self.unanswered -= 1
            cycle.disconnected = True
            cycle.message_event.set()
            if self.pipeline and self.pipeline[0][0] is cycle:
                self.pipeline.popleft()
        if not self.unanswered:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.waiting_since = time.monotonic()
        if self.transport.is_closing():
            return
        if self.refusal:
            self.transport.write(self.refusal)
        if self.half_closed:
            self.transport.close()
        else:
            self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Ends what has waited for too long."""
        seconds = now - self.waiting_since
        if self.ended and seconds > LINGER_SECONDS:
            return self.transport.abort()
        if seconds < self.timeout_seconds or (self.unanswered and not self.flow.write_paused):
            return
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # the rest of an answer that nobody fetches
        elif self.in_message and self.refusal is None:
            self.refuse("408 Request Timeout", "The request did not arrive in time")
        elif seconds > KEEP_ALIVE_SECONDS or self.cycle is None:
            self.transport.close()


class HttpServer:
    """Serves an ASGI application in a thread of its own.

    Args:
      app: the application.
      host: address to listen on.
      port: 0: any that is free.
      timeout_seconds: for a request's head to arrive, for an answer to be fetched, and at the end
        for requests under way to be answered.

    Raises:
      OSError: the port is taken, or there is no such address.
    """

    def __init__(self, app: Any, host: str, port: int, timeout_seconds: float):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server(
                (host, port), family=family, backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            where = f"--rest_api_port: cannot listen on {host}:{port}"
            raise OSError(f"{where}: {error.strerror}") from error
        self.port: int = self._socket.getsockname()[1]
        protocol = type("Protocol", (BoundedProtocol,), {"timeout_seconds": timeout_seconds})
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # not every malformed request
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(timeout_seconds)),
                callback_notify=self._sweep,
                timeout_notify=1,
            )
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))

    async def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._server.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr]

    def stop(self) -> None:
        """Accepts nothing more, and ends when what is under way is answered."""
        self._server.should_exit = True
        self._thread.join()
