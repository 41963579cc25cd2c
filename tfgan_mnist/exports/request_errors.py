"""How a request is refused: by one of the canonical codes that both interfaces speak."""

# TensorFlow Serving's map, model_servers/http_server.cc.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


class RequestError(Exception):
    """A request cannot be answered; one request's fault or trouble, never the server's end.

    Args:
      code: a canonical code, such as "NOT_FOUND".
      message: for whoever sent the request.
      http_status: where HTTP has a more exact one than the code's.
    """

    def __init__(self, code: str, message: str, http_status: int | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status or HTTP_STATUS[code]


def invalid(message: str) -> RequestError:
    """The request itself is at fault."""
    return RequestError("INVALID_ARGUMENT", message)
