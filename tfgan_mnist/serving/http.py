"""The HTTP server: uvicorn, with bounds on what a connection may take and how long.

Uvicorn bounds neither the time nor the size of a request's head, nor how long it keeps an answer
that nobody fetches; it drops a client that has said all it had to say; and what it refuses itself,
it refuses as plain text.
"""

import asyncio
import socket
import threading
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfgan_mnist.serving import json_tensor

MAX_CONNECTIONS = 512  # of the 1024 files that a process may usually open
MAX_HEAD = 1 << 16  # bytes
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
        self.refused = False
        if len(self.connections) > MAX_CONNECTIONS:
            self.refuse("503 Service Unavailable", "Too many connections")

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return  # read, but not looked at; see `refuse`
        self.head_bytes += len(data)
        super().data_received(data)
        if self.in_message and self.head_bytes > MAX_HEAD and not self.refused:
            self.refuse("431 Request Header Fields Too Large", f"More than {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        self.in_message = True
        self.waiting_since = time.monotonic()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        # A chunk of a single byte comes with five that say so.
        self.head_bytes -= 16 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.in_message = False
        self.head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.waiting_since = time.monotonic()
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has said all it has to say; whether it is still to get an answer."""
        if self.refused:
            return False
        if not self._busy():
            if self.in_message:
                self.send_400_response("The request ended before its head did")
            return False
        self.cycle.keep_alive = False
        if self.cycle.more_body:
            self.cycle.scope["state"]["truncated"] = True
            self.cycle.more_body = False
            self.cycle.message_event.set()
        return True

    def send_400_response(self, msg: str) -> None:
        self.refuse("400 Bad Request", msg)

    def refuse(self, status: str, message: str) -> None:
        """Answers in place of the application, and closes.

        What the client is still sending is read for a while: to close before would make its system
        drop the answer.
        """
        self.refused = True
        if not self._busy():
            self.transport.write(_raw(status, message))
        else:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if not self.cycle.response_started:
                self.transport.write(_raw(status, message))
        self.waiting_since = time.monotonic()
        self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Ends what has waited for too long."""
        seconds = now - self.waiting_since
        if self.refused and seconds > LINGER_SECONDS:
            self.transport.abort()
        if seconds < self.timeout_seconds or (self._busy() and not self.flow.write_paused):
            return
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # the rest of an answer that nobody fetches
        elif self.in_message:
            self.refuse("408 Request Timeout", "The request did not arrive in time")
        elif seconds > KEEP_ALIVE_SECONDS or self.cycle is None:
            self.transport.close()

    def _busy(self) -> bool:
        """Whether the application is at work on a request, and the time is its own to bound."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete


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
