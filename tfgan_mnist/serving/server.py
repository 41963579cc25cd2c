"""A running server: the models and their two interfaces."""

import contextlib

from tfgan_mnist.errors import UserError
from tfgan_mnist.serving.grpc import GrpcServer
from tfgan_mnist.serving.http import HttpServer
from tfgan_mnist.serving.metrics import Metrics
from tfgan_mnist.serving.rest import RestApp
from tfgan_mnist.serving.settings import ServerConfig, address, models_of
from tfgan_mnist.serving.versions import Models


class Server(contextlib.ExitStack):
    """Serves until `close`, or until its `with` block ends, which completes pending requests.

    Args:
      config: of the server.
      free_ports: take any free port for an interface whose port is 0, instead of leaving it out.

    Attributes:
      models: what is served.
      rest_url, grpc_address: where the interfaces listen; None for one that is left out.

    Raises:
      UserError: a file or folder in the configuration does not exist or is not valid.
      OSError: a port is taken.
    """

    rest_url: str | None = None
    grpc_address: str | None = None

    def __init__(self, config: ServerConfig, free_ports: bool = False):
        super().__init__()
        if not (config.port or config.rest_api_port or free_ports):
            raise UserError("expected a --port or a --rest_api_port; received 0 for both")
        self.models = Models(models_of(config), config.enable_batching, config.enable_model_warmup)
        metrics = Metrics()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)  # to connect to
        # Ports are taken first, as models load for long, and answer last.
        interfaces: list[GrpcServer | HttpServer] = []
        if config.port or free_ports:
            interfaces.append(GrpcServer(self.models, config, metrics))
            self.grpc_address = address(host, interfaces[-1].port)
        if config.rest_api_port or free_ports:
            interfaces.append(HttpServer(RestApp(self.models, config, metrics), config))
            self.rest_url = f"http://{address(host, interfaces[-1].port)}"
        self.callback(self.models.stop)
        self.models.start(config.file_system_poll_wait_seconds)
        for interface in interfaces:
            interface.start()
            self.callback(interface.stop)
