"""The users of the soak: each does at random whatever a user, and an admin, can do."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from kernelproto.server import hash_token
from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.soak_checks import (
    ENDS,
    IPYKERNEL_CODE,
    SCRIPTED_CODE,
    Cell,
    Disturbances,
    Report,
    add_faults,
    check,
)

STUCK_SECONDS = 60
MOST_CELLS = 6
REVOKED, GOING_AWAY = 4401, 1001
NO_CLOSE_FRAME, NO_PONG = 1006, 1011

# The server waits this long for a client that does not read the close frame, longer for a pong.
CLOSING_SECONDS = 5
ADMIN = "chief"

FRAMING = client_framing(V1_SUBPROTOCOL)

# An action can meet a kernel that is just being started, restarted or ended.
GONE = frozenset({404, 409, 503})


class Tokens:
    """The token file of the server, which each user's token can be taken out of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def renew(self, *users: str) -> None:
        with self._lock:
            self._tokens |= {user: secrets.token_hex(16) for user in users}
            self._write()

    def revoke(self, user: str) -> None:
        with self._lock:
            del self._tokens[user]
            self._write()

    def of(self, user: str) -> dict[str, str]:
        with self._lock:
            return {"Authorization": f"token {self._tokens[user]}"}

    def _write(self) -> None:
        lines = []
        for user, token in self._tokens.items():
            lines += [f"[{user}]", f'token = "{hash_token(token)}"']
            lines += ["admin = true"] if user == ADMIN else []
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines))
        new.rename(self.path)


class Census:
    """From time to time all users finish their work and wait, and the server is measured."""

    def __init__(self, parties: int) -> None:
        self.due = threading.Event()
        self.over = threading.Event()
        self.barrier = threading.Barrier(parties, timeout=2 * STUCK_SECONDS)

    def wait(self) -> None:
        """Wait until all have settled, and until the server has been measured."""
        self.barrier.wait()
        self.barrier.wait()


class Actor:
    """Someone with a token; a thread runs it."""

    def __init__(self, name: str, url: str, tokens: Tokens, census: Census, report: Report) -> None:
        self.name = name
        self.disturbances = Disturbances()
        self._url = httpx.URL(url)
        self._tokens = tokens
        self._census = census
        self._report = report
        self._headers = tokens.of(name)
        self._http: httpx.Client | None = None

    def run(self) -> None:
        """Act until the soak is over; a fault ends it for all."""
        try:
            while not self._census.over.is_set():
                if self._census.due.is_set():
                    self.settle()
                    self._census.wait()
                else:
                    self.act()
        except threading.BrokenBarrierError:
            pass
        except Exception as error:
            self._report.fault(f"{self.name}: {error!r}")
        finally:
            if self._report.faults:
                self._census.over.set()
                self._census.barrier.abort()
            self.close()

    def settle(self) -> None:
        self.close()

    def act(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
            self._http = None

    def request(self, method: str, path: str, *allowed: int, **options: Any) -> httpx.Response:
        if self._http is None:
            # There is no TLS here, and to load the certificates for it takes a while.
            self._http = httpx.Client(
                base_url=self._url,
                headers=self._headers,
                timeout=STUCK_SECONDS,
                verify=False,
                trust_env=False,
            )
        response = self._http.request(method, path, **options)
        if response.status_code not in allowed:
            raise AssertionError(
                f"{method} {path} was answered {response.status_code} {response.text}"
            )
        return response


class SoakUser(Actor):
    """A user with a kernel and a WebSocket."""

    def __init__(self, kernel: str, seed: str, server_pid: int, *rest: Any) -> None:
        super().__init__(*rest)
        self._random = Random(f"{seed} {self.name}")
        self._kernel = kernel
        self._code = SCRIPTED_CODE if kernel.startswith("spec/") else IPYKERNEL_CODE
        self._server_pid = server_pid
        self._socket: ClientConnection | None = None
        self._kernel_id: str | None = None
        self._old_id: str | None = None
        self._pid: int | None = None
        self._session = "first"
        self._last: str | None = None
        self._read = self._was_away = time.monotonic()
        self._cells: dict[str, Cell] = {}
        self._count = 0

    def close(self) -> None:
        super().close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def settle(self) -> None:
        """Have a kernel and a WebSocket, and nothing under way."""
        while True:
            self._finish()
            self._execute()  # a kernel that has died would be noticed here
            self._finish()
            if self._socket is not None:
                break
        super().close()

    def act(self) -> None:
        while len(self._cells) < MOST_CELLS and self._random.random() < 0.7:
            self._execute()
        self._read_for(self._random.random() * 0.5)
        action = self._random.choices(
            [
                self._finish,
                self._interrupt,
                self._restart,
                self._delete,
                self._drop,
                self._reload,
                self._kill,
                self._revoke,
            ],
            [40, 10, 6, 4, 15, 15, 6, 4],
        )[0]
        action()
        if len(self._cells) >= MOST_CELLS:
            self._finish()

    # what the user does

    def _execute(self) -> None:
        websocket = self._connected()
        self._count += 1
        cell = Cell.random(self._random, self.name, self._count)
        code = cell.code(self._code, self._random.choice([0, 0.001, 0.02]))
        header = Header(
            msg_id=cell.msg_id, msg_type="execute_request", session=self._session, version="5.4"
        )
        content = {"code": code, "silent": False, "stop_on_error": False}
        self._cells[cell.msg_id] = cell
        self._report.count("executes")
        try:
            websocket.send(FRAMING.encode("shell", Message.build(header, content)))
        except ConnectionClosed:  # the messages before its end are still to be read
            cell.may_be_lost = True

    def _interrupt(self) -> None:
        if self._kernel_id is not None:
            with self.disturbances.during("interrupt"):
                self._act_on_kernel("POST", "/interrupt")

    def _restart(self) -> None:
        if self._kernel_id is not None:
            with self.disturbances.during("restart"):
                self._act_on_kernel("POST", "/restart")

    def _delete(self) -> None:
        if self._kernel_id is not None:
            with self.disturbances.during("delete"):
                self._act_on_kernel("DELETE", "")

    def _act_on_kernel(self, method: str, action: str) -> None:
        path = f"/api/kernels/{self._kernel_id}{action}"
        status = self.request(method, path, 200, 204, *GONE).status_code
        self._report.count(f"{(action or '/delete')[1:]}: {status}")
        if status in GONE and not self.disturbances.excuse(ENDS, time.monotonic()):
            self._report.fault(f"{self.name}: {path} was answered {status}, and nothing caused it")

    def _drop(self) -> None:
        """Lose the connection without a close frame, and whatever was not read from it yet."""
        if self._socket is not None and self._last is not None:
            self._report.count("drops")
            self._doubt_requests()
            option = struct.pack("ii", 1, 0)
            with suppress(OSError):  # the server has closed the connection just now
                self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                self._socket.socket.shutdown(socket.SHUT_RDWR)
            self._socket.close_socket()
            self._socket = None
            if self._random.random() < 0.5:
                time.sleep(self._random.random())
            self._connected()

    def _reload(self) -> None:
        """Come back as another session, as a page that was loaded again."""
        if self._socket is not None and self._last is not None:
            self._report.count("reloads")
            self._socket.close()
            self._socket = None
            self._session = f"session{self._random.randrange(10**9)}"
            self._connected()

    def _kill(self) -> None:
        pid, self._pid = self._pid, None
        if pid is None:
            return
        with self.disturbances.during("kill"):
            try:
                process = psutil.Process(pid)
                if self._server_pid not in [parent.pid for parent in process.parents()]:
                    return  # the number belongs to another program by now
                process.kill()
            except psutil.NoSuchProcess:
                return
            self._report.count("kills")

    def _revoke(self) -> None:
        """Lose the token, wait for the WebSocket's end, and come back with a new token."""
        if self._socket is None:
            return
        self._report.count("revocations")
        websocket, began = self._socket, time.monotonic()
        self._tokens.revoke(self.name)
        while self._socket is websocket and time.monotonic() < began + STUCK_SECONDS:
            self._receive(websocket, 1.0, revoked=True)
        seconds = time.monotonic() - began
        self._report.count("seconds until 4401, all", round(seconds))
        if self._socket is websocket:
            self._report.fault(f"{self.name}: the WebSocket outlived its token for {seconds:.0f} s")
        self.request("GET", "/api/me", 403)
        super().close()
        self._doubt_requests()
        self._tokens.renew(self.name)
        self._headers = self._tokens.of(self.name)
        self._connected()

    # how it is done

    def _connected(self) -> ClientConnection:
        """Return the WebSocket; start a kernel and connect to it where there is none."""
        while self._socket is None:
            if self._kernel_id is None:
                self._start()
                continue
            query = f"session_id={self._session}"
            if self._last is not None:
                query += f"&last_msg_id={self._last}"
            path = f"/api/kernels/{self._kernel_id}/channels?{query}"
            try:
                self._socket = connect(
                    f"ws://{self._url.host}:{self._url.port}{path}",
                    subprotocols=[V1_SUBPROTOCOL],
                    additional_headers=self._headers,
                    compression=None,
                    max_size=None,
                    open_timeout=STUCK_SECONDS,
                    ping_interval=None,
                    proxy=None,
                ).__enter__()
            except InvalidStatus as error:
                status = error.response.status_code
                if status not in GONE or not self.disturbances.excuse(ENDS, time.monotonic() - 60):
                    raise
                self._report.count(f"handshakes refused: {status}")
                self._lose_kernel()
        return self._socket

    def _start(self) -> None:
        body = {"name": self._kernel}
        if self._old_id is not None and self._random.random() < 0.5:
            body["kernel_id"] = self._old_id
        response = self.request("POST", "/api/kernels", 201, 409, json=body)
        if response.status_code == 409:  # an admin has ended the kernel while it was starting
            self._report.count("starts: 409")
            if not self.disturbances.excuse(frozenset({"admin delete"}), time.monotonic()):
                raise AssertionError(f"a start was refused: {response.text}")
            return
        model = response.json()
        if "kernel_id" in body and not model.get("previous_end"):
            raise AssertionError(f"the model does not tell of the earlier kernel: {model}")
        self._report.count("starts")
        self._kernel_id, self._pid, self._last = model["id"], None, None
        self._session = f"session{self._random.randrange(10**9)}"

    def _lose_kernel(self, *, while_connected: bool = False) -> None:
        """The kernel was ended: no cell of it goes on."""
        for cell in self._cells.values():
            add_faults(cell, self._report, is_whole=False)
            self._report.count("cells: ended while the user was away")
            # A request that the server had not read when the kernel ended has no reply.
            if while_connected and cell.seen:
                self._report.fault(f"{cell.tag} was never answered, and its kernel has ended")
        self._cells.clear()
        self._old_id, self._kernel_id = self._kernel_id, None
        self._pid = self._last = None

    def _read_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._socket is not None and (left := deadline - time.monotonic()) > 0:
            self._receive(self._socket, left)

    def _doubt_requests(self) -> None:
        for cell in self._cells.values():
            cell.may_be_lost = not cell.seen

    def _forget_requests_before(self, cell: Cell) -> None:
        """Forget the requests that the server has never received: the kernel keeps their order."""
        for other in list(self._cells.values()):
            if other.may_be_lost and other.sent < cell.sent:
                del self._cells[other.msg_id]
                self._report.count("cells: lost with the connection")

    def _finish(self) -> None:
        """Read until all cells are over."""
        deadline = time.monotonic() + STUCK_SECONDS
        while self._cells:
            if all(cell.may_be_lost for cell in self._cells.values()):
                self._execute()  # its output tells what has become of the others
            if self._receive(self._connected(), 1.0):
                deadline = time.monotonic() + STUCK_SECONDS
            elif time.monotonic() > deadline:
                raise AssertionError(f"no message for {STUCK_SECONDS} s: {self._cells}")

    def _receive(self, websocket: ClientConnection, wait: float, *, revoked: bool = False) -> bool:
        """Receive a message; return whether there was one."""
        if time.monotonic() - self._read > CLOSING_SECONDS - 1:
            self._was_away = time.monotonic()
        try:
            data = websocket.recv(timeout=wait)
        except TimeoutError:
            return False
        except ConnectionClosed:
            self._was_closed(websocket, revoked=revoked)
            return False
        finally:
            self._read = time.monotonic()
        message = FRAMING.decode(data)[1]
        self._last = message.msg_id
        parent = "" if message.parent_header is None else message.parent_header.msg_id
        cell = self._cells.get(parent)
        if cell is not None:
            cell.take(message)
            self._pid = cell.pid or self._pid
            if cell.is_over:
                del self._cells[parent]
                self._forget_requests_before(cell)
                check(cell, self.disturbances, self._report)
        elif message.msg_type == "stream" and message.content.name == "stdout":
            kind = "doubled" if parent.startswith(f"{self.name}-") else "foreign"
            self._report.count(kind)
            self._report.fault(f"{self.name}: {kind} output of {parent}: {message.content.text!r}")
        if message.msg_type == "stream" and "not kept" in message.content.text:
            self._report.count("lost")
            self._report.fault(f"{self.name}: {message.content.text!r}")
        return True

    def _was_closed(self, websocket: ClientConnection, *, revoked: bool = False) -> None:
        self._socket = None
        code, reason = websocket.close_code, websocket.close_reason
        self._report.count(f"closed by the server: {code}")
        if code == REVOKED and revoked:
            return
        recently = time.monotonic() - 60
        did_not_read = code in (NO_CLOSE_FRAME, NO_PONG) and self._was_away > recently
        expected = code == GOING_AWAY or did_not_read
        if not expected or not self.disturbances.excuse(ENDS, recently):
            raise AssertionError(f"the WebSocket was closed with {code} {reason!r}")
        self._lose_kernel(while_connected=not did_not_read)


class SoakAdmin(Actor):
    """An admin, who acts on anybody's kernels."""

    def __init__(self, seed: str, users: dict[str, SoakUser], *rest: Any) -> None:
        super().__init__(*rest)
        self._random = Random(f"{seed} {self.name}")
        self._users = users

    def act(self) -> None:
        time.sleep(self._random.random())
        kernels = self.request("GET", "/api/kernels?include_all=1", 200).json()
        self.request("GET", "/metrics", 200)
        if not kernels:
            return
        kernel = self._random.choice(kernels)
        path = f"/api/kernels/{kernel['id']}"
        kind, method, action = self._random.choices(
            [
                ("admin interrupt", "POST", "/interrupt"),
                ("admin restart", "POST", "/restart"),
                ("admin delete", "DELETE", ""),
            ],
            [5, 3, 2],
        )[0]
        with self._users[kernel["owner"]].disturbances.during(kind):
            path += f"{action}?include_all=1&owner={kernel['owner']}"
            response = self.request(method, path, 200, 204, *GONE)
        self._report.count(f"{kind}: {response.status_code}")
