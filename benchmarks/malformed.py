"""Malformed requests from a seed. A server must neither crash nor wait: each gets one refusal."""

import gzip
import itertools
import json
import random
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

THREADS = 8
MAX_SECONDS = 30  # of a client that waits for an answer
BOMB = gzip.compress(b"[" + b"1," * (50 << 20))  # 100 MB in 100 kB
SEEDS = (None, True, 1.5, "7", [], {}, [1], {"b64": "AA=="}, 2**31, 10**30, 1e300, [[[[1]]]])
LABELS = (-1, 10, 2**31 - 1, -(2**31), None, "1")
VALUES = (
    *(None, 1, "x", [], {}, {"instances": {}}, {"inputs": 3}, {"instances": []}),
    {"signature_name": 3, "instances": [1]},
    {"signature_name": "x", "inputs": {}},
    {"signature_name": "png", "inputs": {"seed": [1, 2], "labels": [1, 2, 3]}},
    {"signature_name": "png", "inputs": {"seed": 1, "labels": 1}},
    {"signature_name": "png", "instances": [{"seed": 1, "labels": 1}] * 10_000},
    {"instances": [{"latents": [0.5] * size, "labels": 1} for size in (100, 3, 100)]},
)
DOCUMENTS = [json.dumps(value).encode() for value in VALUES]
WRONG_HTTP = (
    b"GARBAGE\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,  # TLS
    b"POST / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/models/x:predict HTTP/1.1\r\nContent-Length: zzz\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n",
    b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/models/x HTTP/1.1\r\nX-A: " + b"a" * (1 << 20),  # a head without an end
)
# How often each kind of request is sent, relative to the others.
WEIGHTS = {"valid": 10, "document": 40, "text": 40, "http": 20, "path": 7, "unknown model": 3}
WEIGHTS |= {"gone": 5, "bomb": 2, "slow": 2, "large": 1}


class Request(NamedTuple):
    """What a client sends and accepts."""

    content: bytes
    statuses: range = range(400, 500)
    may_close: bool = False  # the server may close the connection without an answer
    pause: float = 0.0  # seconds between its two halves
    wait: bool = True  # for the answer


def post(model: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Returns a predict request with this body."""
    lines = [
        f"POST /v1/models/{model}:predict HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


LARGE = post("x", b" " * (9 << 20))


def body_of(seed=1, label=1) -> bytes:
    """Returns the body of a request for two pictures."""
    rows = [{"seed": seed, "labels": label}, {"seed": 1, "labels": 1}]
    return json.dumps({"signature_name": "png", "instances": rows}).encode()


def requests(model: str, rng: random.Random) -> dict[str, Request]:
    """Returns a request of each kind."""
    valid = Request(post(model, body_of(rng.randrange(1000), rng.randrange(10))), range(200, 201))
    documents = [rng.choice(DOCUMENTS), body_of(rng.choice(SEEDS)), body_of(1, rng.choice(LABELS))]
    length = rng.choice([20, 400, 5000, 100_000])
    number = rng.choice([b"9" * length, b"1e" + b"9" * length, b"NaN", b"-Infinity", b"0x10"])
    texts = [
        b'{"instances": [' + rng.choice([b"[", b'{"a":']) * length + b"]}",
        b'{"instances": [' + b"[" * length + b"1" + b"]" * length + b"]}",
        b'{"signature_name":"png","instances":[{"seed":%b}]}' % number,
        b'{"note": NaN, "instances": ["' + rng.choice([b'\\"', b'"', b"\\\\"]) * length + b"\\",
        valid.content[: rng.randrange(30)],
        rng.randbytes(rng.randrange(2000)),
        body_of().replace(b"1", rng.randbytes(1), 1),  # may be right
    ]
    paths = ["/v1/models", "/v1/x", f"/v1/models/{model}:x", "/v1/%00", "/v1/models//"]
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "POST"])
    path = f"{method} {rng.choice(paths)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    unknown = rng.choice(["x", f"{model}/versions/77", f"{model}/labels/x"])
    bomb = rng.choice([BOMB, gzip.compress(b"x"), b"\x1f\x8b" + rng.randbytes(100)])
    return {
        "valid": valid,
        "slow": valid._replace(pause=rng.uniform(0.1, 0.5)),
        "gone": Request(valid.content[: rng.randrange(1, len(valid.content))], wait=False),
        "document": Request(post(model, rng.choice(documents))),
        "text": Request(post(model, rng.choice(texts)), range(200, 500)),
        "http": Request(rng.choice(WRONG_HTTP), may_close=True),
        "path": Request(path.encode()),
        "unknown model": Request(post(unknown, body_of())),
        "bomb": Request(post(model, bomb, "Content-Encoding: gzip")),
        "large": Request(LARGE, may_close=True),
    }


def exchange(port: int, request: Request) -> str:
    """Sends a request; returns the status of the answer, or "WRONG" with the reason."""
    try:
        with socket.create_connection(("127.0.0.1", port), MAX_SECONDS) as connection:
            half = len(request.content) // 2 if request.pause else 0
            try:
                connection.sendall(request.content[:half])
                time.sleep(request.pause)
                connection.sendall(request.content[half:])
                if request.may_close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was read to its end; there may be an answer
            return outcome(read_answer(connection), request) if request.wait else "left"
    except TimeoutError:
        return f"WRONG: no answer to {request.content[:100]!r}"
    except OSError as error:
        return "closed" if request.may_close else f"WRONG: {error!r}"


def read_answer(connection: socket.socket) -> bytes:
    """Returns what is received up to the length in the answer's head, or to the end."""
    answer, end = bytearray(), None
    while end is None or len(answer) < end:
        received = connection.recv(1 << 20)
        if not received:
            break
        answer += received
        if end is None and (head := answer.find(b"\r\n\r\n")) >= 0:
            lengths = re.findall(rb"(?im)^content-length: *(\d+)", answer[:head])
            end = head + 4 + int(lengths[0]) if lengths else None
    return bytes(answer)


def outcome(answer: bytes, request: Request) -> str:
    """Returns the status, "closed", or "WRONG" with the answer."""
    if not answer and request.may_close:
        return "closed"
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    one = len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    if not found or not one or int(found[1]) not in request.statuses:
        return f"WRONG: {answer[:200]!r} to {request.content[:150]!r}"
    return found[1].decode()


def send_all(port: int, model: str, number: int, seed: int, without=()) -> Counter:
    """Sends a number of requests from several threads; returns how often each outcome was seen.

    `model` is a conditional model that the server on `port` serves, `without` has kinds to skip.
    """
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind not in without}

    def work(thread: int) -> list[str]:
        rng = random.Random(f"{seed} {thread}")
        kinds = rng.choices(list(weights), list(weights.values()), k=number // THREADS)
        return [f"{kind}: {exchange(port, requests(model, rng)[kind])}" for kind in kinds]

    with ThreadPoolExecutor(THREADS) as pool:
        return Counter(itertools.chain(*pool.map(work, range(THREADS))))
