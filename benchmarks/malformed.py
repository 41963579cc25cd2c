"""Requests that a server must refuse, made up from a seed, and what it may answer to each.

Every kind is a function that returns the bytes to send and how to send them. Whatever they are, the
answer must have a status of 4xx and say why in JSON, or come from a valid request among them.
"""

import gzip
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

THREADS = 8
PATIENCE_SECONDS = 30  # of a client that waits for an answer; "never a hang" is less than that


class Request(NamedTuple):
    """What a client does."""

    content: bytes
    statuses: tuple[int, ...] = (400,)
    pause: float = 0.0  # seconds between its two halves
    half_close: bool = False  # say that nothing will follow
    leave: bool = False  # do not wait for the answer


def post(model: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = [
        f"POST /v1/models/{model}:predict HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body) if length is None else length}",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def valid_body(rng: random.Random) -> bytes:
    rows = [{"seed": rng.randrange(1000), "labels": rng.randrange(10)} for _ in range(2)]
    return json.dumps({"signature_name": "png", "instances": rows}).encode()


def wrong_value(rng: random.Random):
    """A JSON value that is no seed."""
    return rng.choice(
        [
            None,
            True,
            1.5,
            "7",
            [],
            {},
            [1],
            {"b64": "AA=="},
            2**31,
            -(2**31) - 1,
            10**30,
            1e300,
            [[[[1]]]],
            {"seed": 1},
            "\u0000",
            "x" * 1000,
            [None] * 100,
        ]
    )


def wrong_types(model, rng):
    body = {"signature_name": "png", "instances": [{"seed": wrong_value(rng), "labels": 1}]}
    return Request(post(model, json.dumps(body).encode()))


def wrong_documents(model, rng):
    body = rng.choice(
        [
            None,
            1,
            "x",
            [],
            {},
            {"instances": {}},
            {"inputs": 3},
            {"instances": []},
            {"signature_name": 3, "instances": [1]},
            {"signature_name": "x", "inputs": {}},
            {"signature_name": "png", "inputs": {"seed": [1, 2], "labels": [1, 2, 3]}},
            {"signature_name": "png", "inputs": {"seed": 1, "labels": 1}},
        ]
    )
    return Request(post(model, json.dumps(body).encode()))


def wrong_sizes(model, rng):
    rows = [{"latents": [0.5] * rng.randrange(200), "labels": 1} for _ in range(3)]
    rows[1]["latents"] = [0.5] * 3
    return Request(post(model, json.dumps({"instances": rows}).encode()))


def wrong_labels(model, rng):
    label = rng.choice([-1, 10, 2**31 - 1, -(2**31)])
    body = {"signature_name": "png", "instances": [{"seed": 1, "labels": label}]}
    return Request(post(model, json.dumps(body).encode()))


def too_many_rows(model, rng):
    rows = [{"seed": 1, "labels": 1}] * rng.choice([300, 10_000])
    return Request(post(model, json.dumps({"signature_name": "png", "instances": rows}).encode()))


def nesting(model, rng):
    depth = rng.choice([10, 100, 1000, 5000, 100_000])
    content = b"[" * depth + b"1" + b"]" * depth
    if rng.random() < 0.3:
        content = b'{"a":' * depth + b"1" + b"}" * depth
    special = rng.choice([b"", b"NaN, "])
    return Request(post(model, b'{"instances": [' + special + content + b"]}"))


def numbers(model, rng):
    digits = rng.choice([20, 400, 5000, 100_000])
    number = rng.choice([b"9" * digits, b"-" + b"9" * digits, b"1e" + b"9" * digits, b"NaN"])
    number = rng.choice([number, b"Inf", b"-Infinity", b"0x10", b"01", b"1.", b"--1", b"1_000"])
    return Request(post(model, b'{"signature_name":"png","instances":[{"seed":%b}]}' % number))


def truncated(model, rng):
    body = valid_body(rng)
    return Request(post(model, body[: rng.randrange(len(body))]))


def endless_strings(model, rng):
    """Beside a number that takes another parser: a string full of quotes that lacks its end."""
    quotes = rng.choice([b'\\"', b'"', b"\\\\", b"\\u0022"]) * rng.choice([100, 8000, 100_000])
    return Request(post(model, b'{"note": NaN, "instances": ["' + quotes + b"\\"))


def garbage(model, rng):
    return Request(post(model, rng.randbytes(rng.randrange(2000))))


def flipped(model, rng):
    body = bytearray(valid_body(rng))
    for _ in range(3):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return Request(post(model, bytes(body)), statuses=(200, 400))


BOMB = gzip.compress(b"[" + b"1," * (50 << 20))  # 100 MB of 100 kB


def bombs(model, rng):
    body = rng.choice([BOMB, gzip.compress(b"x"), b"\x1f\x8b" + rng.randbytes(100)])
    return Request(post(model, body, "Content-Encoding: gzip"), statuses=(400, 413))


def large(model, rng):
    return Request(post(model, b" " * (9 << 20)), statuses=(413,))


def chunked(model, rng):
    head = f"POST /v1/models/{model}:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunk = rng.choice([b"3\r\n{}}\r\n0\r\n\r\n", b"zz\r\nxx\r\n", b"1\r\nxx\r\n", b"-1\r\n\r\n"])
    return Request(head.encode() + b"\r\n" + chunk)


def broken_http(model, rng):
    content = rng.choice(
        [
            b"GARBAGE\r\n\r\n",
            b"GET\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,
            b"POST / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/models/x:predict HTTP/1.1\r\nContent-Length: zzz\r\n\r\n",
            b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
    )
    return Request(content, half_close=True)


def large_heads(model, rng):
    head = b"GET /v1/models/x HTTP/1.1\r\n" + b"X-A: " + b"a" * rng.choice([100_000, 1 << 20])
    return Request(head, statuses=(400, 431), half_close=True)


def wrong_paths(model, rng):
    path = rng.choice(["/v1/models", "/v1/x", f"/v1/models/{model}:x", "/v1/%00", "/v1/models//"])
    method = rng.choice(["GET", "PUT", "DELETE", "PATCH", "POST"])
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    return Request(head.encode())


def unknown(model, rng):
    which = rng.choice([f"x{rng.random()}", f"{model}/versions/77", f"{model}/labels/x"])
    return Request(post(which, valid_body(rng)), statuses=(400, 404))


def half_closed(model, rng):
    body = valid_body(rng)
    if rng.random() < 0.5:
        return Request(post(model, body), statuses=(200,), half_close=True)
    return Request(post(model, body[:-5], length=len(body)), half_close=True)


def slow(model, rng):
    """Slower than the server's patience in the head or in the body, or just slow."""
    content = post(model, valid_body(rng))
    if rng.random() < 0.5:
        return Request(content, statuses=(200,), pause=rng.uniform(0.1, 0.5))
    keep = rng.choice([len(content) // 3, len(content) - 5])
    return Request(content[:keep], statuses=(408,))


def gone(model, rng):
    content = post(model, valid_body(rng))
    return Request(content[: rng.randrange(1, len(content) + 1)], leave=True)


def valid(model, rng):
    return Request(post(model, valid_body(rng)), statuses=(200,))


# How often each is sent, beside the others; those that wait for time-outs or send much less often.
KINDS: dict[Callable[[str, random.Random], Request], float] = {
    **dict.fromkeys([wrong_types, wrong_documents, wrong_sizes, wrong_labels, nesting], 10),
    **dict.fromkeys([numbers, truncated, garbage, flipped, chunked, broken_http], 10),
    **dict.fromkeys([wrong_paths, unknown, half_closed, gone, too_many_rows], 5),
    **dict.fromkeys([bombs, large_heads, endless_strings], 2),
    large: 1,
    slow: 2,
    valid: 10,
}


def exchange(port: int, request: Request) -> str:
    """Sends a request; tells what came of it."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS) as connection:
            half = len(request.content) // 2 if request.pause else 0
            try:
                connection.sendall(request.content[:half])
                time.sleep(request.pause)
                connection.sendall(request.content[half:])
                if request.half_close:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was read to its end; the answer may be there
            if request.leave:
                return "left"
            return judge(read_answer(connection), request)
    except TimeoutError:
        return "WRONG: no answer"
    except OSError as error:
        return f"WRONG: {error!r}"


def read_answer(connection: socket.socket) -> bytes:
    """Reads to the end that the head announces, or to that of the connection."""
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


def judge(answer: bytes, request: Request) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
        document = json.loads(body)
    except (ValueError, IndexError):
        return f"WRONG: {answer[:100]!r} to {request.content[:100]!r}"
    good = "predictions" in document if status == 200 else set(document) == {"error"}
    if not good or status not in request.statuses:
        return f"WRONG: {status} {body[:100]!r} to {request.content[:150]!r}"
    return str(status)


def send_all(port: int, model: str, number: int, seed: int, without=()) -> Counter:
    """Sends that many requests; how often there was which outcome of which kind.

    Args:
      port: of a server on this machine.
      model: that it serves, conditional.
      number: of requests.
      seed: of the requests.
      without: kinds that are left out.
    """
    kinds = {kind: weight for kind, weight in KINDS.items() if kind not in without}
    counts: Counter = Counter()
    lock = threading.Lock()

    def work(thread: int) -> None:
        rng = random.Random(f"{seed} {thread}")
        for _ in range(number // THREADS):
            (kind,) = rng.choices(list(kinds), list(kinds.values()))
            outcome = exchange(port, kind(model, rng))
            with lock:
                counts[f"{kind.__name__}: {outcome}"] += 1

    threads = [threading.Thread(target=work, args=[thread]) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts
