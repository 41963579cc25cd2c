"""The HTTP server: uvicorn with h11, in a thread of its own.

It is made for a laptop and a trusted network. A public address needs a reverse proxy or TensorFlow
Serving in front of it (deploy/serving/README.md), which also limit slow and idle clients.
"""

import socket
import threading
from typing import Any

import uvicorn

from tfgan_mnist.serving.settings import ServerConfig

MAX_CONNECTIONS = 512  # a process may usually open 1024 files


class HttpServer:
    """Serves an ASGI application on its port, which is taken at once, from `start` to `stop`.

    Raises:
      OSError: the port is taken, or there is no such address.
    """

    def __init__(self, app: Any, config: ServerConfig):
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        address = (config.host, config.rest_api_port)
        try:
            listening = socket.create_server(address, family=family, backlog=MAX_CONNECTIONS)
        except OSError as error:
            where = "--rest_api_port: cannot listen on {}:{}".format(*address)
            raise OSError(f"{where}: {error.strerror}") from error
        # Connections inherit it. Without it an answer's body waits 40 ms for its head's receipt.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = listening.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="h11",
                h11_max_incomplete_event_size=1 << 16,  # bytes of a request's line and headers
                limit_concurrency=MAX_CONNECTIONS,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="critical",  # not every malformed request
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=max(1, round(config.timeout_seconds)),
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=[[listening]], name="http", daemon=True
        )

    def start(self) -> None:
        """Answers requests, also those that have been waiting for it."""
        self._thread.start()

    def stop(self) -> None:
        """Accepts no more requests, and returns when pending ones are completed."""
        self._server.should_exit = True
        self._thread.join()
