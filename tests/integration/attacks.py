"""What hostile clients send over HTTP: each attack as bytes, and the answers that are right.

All of it comes from a random number generator, so that a seed brings the same attacks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple
from urllib.parse import quote


class Target(NamedTuple):
    """What is attacked.

    Args:
        token: lets the attacker in: a user like all others.
        kernel_id: of the attacker's own kernel.
        victim_id: of somebody else's.
        body_limit: the bytes that a body may have.
        message_limit: the bytes that a WebSocket's message may have.
    """

    token: str
    kernel_id: str
    victim_id: str
    body_limit: int
    message_limit: int


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One connection, and what is sent on it.

    Args:
        request: the first bytes.
        statuses: the right answers to that; 0 for a connection that is closed without one.
        frames: what follows once it is a WebSocket.
        codes: the right codes for closing it; with 1000 it may also go on.
        hangs_up: whether the client waits for no answer.
    """

    request: bytes
    statuses: Collection[int]
    frames: bytes = b""
    codes: Collection[int] = ()
    hangs_up: bool = False


Kind = Callable[[Random, Target], Attack]


def request(
    method: str,
    path: str | bytes,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> bytes:
    lines = {"Host": "server.test", **({"Authorization": f"token {token}"} if token else {})}
    lines |= {"Content-Length": str(len(body)), "Connection": "close", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    where = path if isinstance(path, bytes) else path.encode()
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), where, head.encode("latin-1")) + body


def handshake(path: str, token: str | None, headers: Mapping[str, str] | None = None) -> bytes:
    wanted = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    return request("GET", path, token, wanted | dict(headers or {}))


def routes(kernel_id: str) -> list[tuple[str, str]]:
    kernel = f"/api/kernels/{kernel_id}"
    return [
        ("GET", kernel),
        ("DELETE", kernel),
        ("POST", f"{kernel}/interrupt"),
        ("POST", f"{kernel}/restart"),
        ("GET", f"/api/sessions/{kernel_id}"),
        ("PATCH", f"/api/sessions/{kernel_id}"),
        ("DELETE", f"/api/sessions/{kernel_id}"),
        ("GET", f"/api/contexts/{kernel_id}"),
        ("DELETE", f"/api/contexts/{kernel_id}"),
        ("POST", f"/api/contexts/{kernel_id}/interrupt"),
        ("POST", f"/api/contexts/{kernel_id}/restart"),
    ]


LISTS = [("GET", "/api/kernels"), ("POST", "/api/kernels"), ("GET", "/api/sessions")]
LISTS += [("GET", "/api/contexts"), ("POST", "/api/contexts")]
LISTS += [("POST", "/api/sessions"), ("GET", "/api/status"), ("GET", "/api/kernelspecs")]


def bad_token(random: Random, target: Target) -> Attack:
    token = random.choice(
        [
            target.token[:-1],
            target.token + "x",
            target.token.swapcase() + "x",
            target.victim_id,
            "\xff" * random.randrange(1, 50),
            "x" * random.randrange(1000, 8000),
            "%00",
            "{}",
            "' OR '1'='1",
        ]
    )
    method, path = random.choice([*routes(target.victim_id), *LISTS])
    match random.randrange(5):
        case 0:
            data = request(method, path)
        case 1:
            data = request(method, f"{path}?token={quote(token, encoding='latin-1')}")
        case 2:
            data = request(method, path, headers={"Authorization": f"Bearer {token}"})
        case 3:  # the first one counts
            headers = {"Authorization": f"token {token}\r\nAuthorization: token {target.token}"}
            data = request(method, path, headers=headers)
        case _:
            return Attack(
                request=handshake(f"/api/kernels/{target.victim_id}/channels", token),
                statuses=[403],
            )
    return Attack(request=data, statuses=[403])


def other_users_kernel(random: Random, target: Target) -> Attack:
    victim = random.choice(
        [target.victim_id, target.victim_id.upper(), target.victim_id + "%20", "0", "%2e"]
    )
    match random.randrange(3):
        case 0:
            path = f"/api/kernels/{victim}/channels?session_id={target.kernel_id}"
            return Attack(request=handshake(path, target.token), statuses=[404])
        case 1:
            body = json.dumps({"id": target.victim_id}).encode()
            data = request("POST", "/api/kernels", target.token, body=body)
        case _:
            method, path = random.choice(routes(victim))
            data = request(method, path, target.token)
    return Attack(request=data, statuses=[404])


def traversal(random: Random, target: Target) -> Attack:
    up = random.choice(["..", "%2e%2e", ".%2e", "..%00", "%252e%252e", "..;", "%c0%ae%c0%ae"])
    slash = random.choice(["/", "%2f", "%5c", "\\", "//"])
    climb = slash.join([up] * random.randrange(1, 12))
    start = random.choice(
        ["/kernelspecs/fork/kernel", "/kernelspecs", "/api/kernelspecs", "/api/kernels", "", "/api"]
    )
    path = (
        f"{start}/{climb}{slash}{random.choice(['etc/passwd', 'proc/self/environ', 'users.toml'])}"
    )
    return Attack(request=request("GET", path, target.token), statuses=[404])


def file_outside(random: Random, target: Target) -> Attack:
    names = ["..", "../users.toml", "..%2fusers.toml", "a/../../users.toml", "%2fetc%2fpasswd"]
    names += ["/etc/passwd", "a%00b", "x" * 2000, "/".join(["a"] * 3000), "..%5cusers.toml", "."]
    names += ["", "a//b", "%ff" * 100 + "/../x"]
    path = f"/api/contexts/{target.kernel_id}/files/{random.choice(names)}"
    method = random.choice(["GET", "PUT", "DELETE"])
    body = random.randbytes(100) if method == "PUT" else b""
    return Attack(request=request(method, path, target.token, body=body), statuses=[400])


def injected_header(random: Random, target: Target) -> Attack:
    forged = random.choice(["%0d%0aX-Injected: 1", "%0aX-Injected:%201", "%E5%98%8AX-Injected:1"])
    match random.randrange(4):
        case 0:
            data = request("GET", f"/api/kernels/{quote(forged, safe='%')}", target.token)
            return Attack(request=data, statuses=[404])
        case 1:
            data = request("GET", f"/api/kernels/?x={quote(forged, safe='%')}", target.token)
            return Attack(request=data, statuses=[307, 404])
        case 2:
            body = json.dumps({"path": "x\r\nX-Injected: 1", "type": 1}).encode()
            data = request("POST", "/api/sessions", target.token, body=body)
            return Attack(request=data, statuses=[400])
        case _:
            headers = {"Origin": "http://x\x01\r\n X-Injected: 1", "X": "a\rX-Injected: 1"}
            data = request("POST", "/api/kernels", target.token, headers)
            return Attack(request=data, statuses=[400])


def large_head(random: Random, target: Target) -> Attack:
    size = random.choice([70_000, 200_000, 1_000_000])
    match random.randrange(3):
        case 0:
            data = request("GET", "/api/kernels", target.token, {"X": "x" * size})
        case 1:
            data = request("GET", "/api/kernels?" + "x" * size, target.token)
        case _:
            headers = {f"X{number}": "x" * 100 for number in range(size // 100)}
            data = request("GET", "/api/kernels", target.token, headers)
    return Attack(request=data, statuses=[200, 400, 431, 0])  # it may come in one piece


def broken_json(random: Random, target: Target) -> Attack:
    depth = random.choice([100, 3000, 30_000])
    body = random.choice(
        [
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"\xff\xfe{}",
            b'{"name": "\xff"}',
            b'{"name": 1}',
            b'{"name": NaN}',
            b'{"kernel_id": "../../x"}',
            b'{"name": "\\ud800"}',
            b'{"env": {"A": 1}}',
            b'{"env": [[]]}',
            b'{"path": ["x"]}',
            b'{"name": ' + b"9" * 5000 + b"}",
            b'{"x": ' + b"[" * depth + b"]" * depth + b', "name": 1}',
            b'{"env": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}",
            random.randbytes(200),
        ]
    )
    context = f"/api/contexts/{target.kernel_id}"
    paths = ["/api/kernels", "/api/sessions", "/api/contexts"]
    path = random.choice([*paths, f"{context}/execute", f"{context}/interrupt"])
    return Attack(request=request("POST", path, target.token, body=body), statuses=[400])


def no_such_kernel_type(random: Random, target: Target) -> Attack:
    name = random.choice(
        [
            "spec/../../etc",
            "fork/",
            "/kernel",
            "x" * 255,
            "\0",
            "fork/kernel\0",
            "\U0001f40d/\u202e",
            "{connection_file}",
            "$HOME",
            "pyimport/" + "x" * 200,
        ]
    )
    body = json.dumps({"name": name, "path": "../../.."}).encode()
    data = request("POST", "/api/kernels", target.token, body=body)
    return Attack(request=data, statuses=[404, 429])


def large_field(random: Random, target: Target) -> Attack:
    """A field of a body that is fine, were there not so much of it."""
    count = random.choice([5_000, 20_000])
    kernel = random.choice(
        [
            {"id": "x" * count},
            {"kernel_id": "0" * count},
            {"name": "fork/" + "kernel" * count},
            {"path": "a/" * count},
            {"path": "x" * count},
            {"path": "/" * 200},
            {"env": {"KERNEL_WORKING_DIR": "/a" * count}},
            {"env": {f"KERNEL_{number}": "" for number in range(count // 4)}},
            {"env": {"KERNEL_" * count: ""}},
        ]
    )
    if random.random() < 0.5:
        data = request("POST", "/api/kernels", target.token, body=json.dumps(kernel).encode())
        return Attack(request=data, statuses=[400])
    if random.random() < 0.5:
        context = random.choice(
            [
                {"language": "x" * count},
                {"kernel": "fork/" + "kernel" * count},
                {"cwd": "a/" * count},
                {"cwd": "a/" * 300},
                {"env_vars": {f"KERNEL_{number}": "" for number in range(count // 4)}},
                {f"field{number}": "" for number in range(count // 4)},
            ]
        )
        data = request("POST", "/api/contexts", target.token, body=json.dumps(context).encode())
        return Attack(request=data, statuses=[400])
    session = {"path": "a", "type": "notebook"}
    session |= random.choice(
        [{"path": "a/" * count}, {"type": "x" * count}, {"name": "x" * count}, {"kernel": kernel}]
    )
    data = request("POST", "/api/sessions", target.token, body=json.dumps(session).encode())
    return Attack(request=data, statuses=[400])


def wrong_method(random: Random, target: Target) -> Attack:
    _, path = random.choice([*routes(target.kernel_id)[:4], *LISTS])
    method = random.choice(["PUT", "TRACE", "FOO", "PROPFIND", "get", "OPTIONS"])
    return Attack(request=request(method, path, target.token), statuses=[405])


def broken_body(random: Random, target: Target) -> Attack:
    start = request("POST", "/api/kernels", target.token, {"Content-Length": "1000"})
    chunked = request(
        "POST", "/api/sessions", target.token, {"Transfer-Encoding": "chunked"}
    ).replace(b"Content-Length: 0\r\n", b"")
    match random.randrange(6):
        case 0:  # it never comes
            return Attack(request=start + b'{"name"', statuses=(), hangs_up=True)
        case 1:
            body = b" " * (target.body_limit + random.choice([1, 1000]))
            data = request("POST", "/api/kernels", target.token, body=body)
            return Attack(request=data, statuses=[413])
        case 2:
            return Attack(request=chunked + b"zz\r\n{}\r\n0\r\n\r\n", statuses=[400, 0])
        case 3:
            return Attack(request=chunked + b"ffffffffffff\r\n{", statuses=(), hangs_up=True)
        case 4:
            data = start.replace(b"1000", random.choice([b"-1", b"1e3", b"9" * 30, b"1, 2"]))
            return Attack(request=data, statuses=[400, 413, 0], hangs_up=b"9" * 30 in data)
        case _:
            head = request("POST", "/api/kernels", headers={"Transfer-Encoding": "gzip, chunked"})
            return Attack(request=head + b"0\r\n\r\n", statuses=[400, 403, 501, 0])


def garbage(random: Random, target: Target) -> Attack:
    data = random.choice(
        [
            random.randbytes(random.randrange(1, 2000)) + b"\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500) + b"\r\n\r\n",
            b"GET /api\r\n\r\n",
            b"GET /api HTTP/9.9\r\n\r\n",
            b"GET /api HTTP/1.1\r\n\r\n",  # no host
            b"GET  /api HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /api HTTP/1.1\r\nHost : x\r\n\r\n",
            b"\r\n" * 10 + b"\0\r\n\r\n",
            b"GET /api HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ]
    )
    return Attack(request=data, statuses=[400, 403, 0])


def other_origin(random: Random, target: Target) -> Attack:
    origin = random.choice(
        ["http://evil.test", "null", "http://server.test.evil.test", "http://[", "", "file://"]
    )
    if random.random() < 0.5:
        path = f"/api/kernels/{target.kernel_id}/channels"
        data = handshake(path, target.token, {"Origin": origin})
    else:
        data = request("POST", "/api/kernels", target.token, {"Origin": origin})
    return Attack(request=data, statuses=[403])


HTTP_ATTACKS: list[Kind] = [
    bad_token,
    other_users_kernel,
    traversal,
    file_outside,
    injected_header,
    large_head,
    broken_json,
    no_such_kernel_type,
    large_field,
    wrong_method,
    broken_body,
    garbage,
    other_origin,
]
