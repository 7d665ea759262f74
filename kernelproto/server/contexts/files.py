"""The files of contexts: uploads and downloads, within the working directory of a context.

The limits for uploads: a file has at most MOST_FILE_BYTES. An upload is refused if the folder has
MOST_FILES files or would exceed MOST_FOLDER_BYTES. MOST_UPLOADS of a context may be under way, each
for UPLOAD_SECONDS. Code of the context can write more, so these limits are no quota for code.

A download may have any size; a client that takes longer than SEND_SECONDS to read a part has left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from typing import TypeVar

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.confined_folder import ConfinedFolder, NewFile, NoSuchFile, OpenFile, Refused
from kernelproto.remote.models import FileList, FileModel

T = TypeVar("T")

MOST_FILE_BYTES = 64 * 2**20
MOST_FOLDER_BYTES = 2**30
MOST_FILES = 10_000
MOST_UPLOADS = 4
UPLOAD_SECONDS = 600
SEND_SECONDS = 60.0

# So much is read or written at once, in a thread.
_PART_BYTES = 256 * 1024

# A slow file system must not hold all threads of the server.
_THREADS = 8

# How long the end of an upload waits for the removal of an incomplete file.
_REMOVING_SECONDS = 5.0

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Files:
    """Performs the requests for files.

    Each method raises HTTPException: 404 if there is no such file, 400 if the name or the file is
    not allowed.
    """

    def __init__(self) -> None:
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._uploads: Counter[str] = Counter()

    async def files(self, folder: ConfinedFolder) -> FileList:
        """Return the files of a folder."""
        found, more = await self._run(folder.files, MOST_FILES)
        return FileList([FileModel(file.name, file.size) for file in found], not more)

    async def open(self, folder: ConfinedFolder, name: str) -> OpenFile:
        """Open a file, which the caller closes."""
        return await self._run(folder.open_file, name)

    async def remove(self, folder: ConfinedFolder, name: str) -> None:
        """Remove a file."""
        await self._run(folder.remove, name)

    async def upload(
        self, context_id: str, folder: ConfinedFolder, name: str, request: Request
    ) -> None:
        """Write the body of a request to a file.

        Raises:
            HTTPException: as for all methods; 400, the body is incomplete; 408, the body did not
                arrive in time; 413, a limit is exceeded; 429, too many uploads are under way.
        """
        if self._uploads[context_id] >= MOST_UPLOADS:
            raise HTTPException(
                429, f"{MOST_UPLOADS} uploads of this context are under way: try again later"
            )
        self._uploads[context_id] += 1
        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                await self._write(folder, name, request)
        except TimeoutError:
            message = f"the body did not arrive within {UPLOAD_SECONDS} s"
            raise HTTPException(408, message) from None
        except ClientDisconnect:
            raise HTTPException(400, "the body is incomplete") from None
        finally:
            self._uploads[context_id] -= 1
            if not self._uploads[context_id]:
                del self._uploads[context_id]

    async def _write(self, folder: ConfinedFolder, name: str, request: Request) -> None:
        room = await self._run(_room, folder, name)
        file = await self._run(folder.new_file, name)
        try:
            await self._receive(file, request, room)
            await self._run(file.commit)
        finally:
            with anyio.move_on_after(_REMOVING_SECONDS, shield=True):
                await to_thread.run_sync(file.abort, abandon_on_cancel=True)

    async def _receive(self, file: NewFile, request: Request, room: int) -> None:
        buffer = bytearray()
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                buffer += chunk
                room -= len(chunk)
                if room < 0:
                    raise HTTPException(
                        413,
                        f"the file is too large: a file may have {MOST_FILE_BYTES} bytes, and all "
                        f"files of the folder {MOST_FOLDER_BYTES} bytes",
                    )
                if len(buffer) >= _PART_BYTES:
                    await self._run(file.write, buffer)
                    buffer = bytearray()
        await self._run(file.write, buffer)

    async def _run(self, function: Callable[..., T], *args: object) -> T:
        """Call a function in a thread."""
        with _refusing():
            return await to_thread.run_sync(function, *args, limiter=self._threads)


@contextmanager
def _refusing() -> Generator[None]:
    """Raise HTTPException for a refusal of the block."""
    try:
        yield
    except NoSuchFile as error:
        raise HTTPException(404, str(error)) from None
    except Refused as error:
        raise HTTPException(400, str(error)) from None


def _room(folder: ConfinedFolder, name: str) -> int:
    """Return how many bytes a new file may have."""
    files, more = folder.files(MOST_FILES)
    others = [file for file in files if file.name != name]
    if more or len(others) >= MOST_FILES:
        raise HTTPException(413, f"the folder has {MOST_FILES} files or more: remove some first")
    return min(MOST_FILE_BYTES, max(MOST_FOLDER_BYTES - sum(file.size for file in others), 0))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the begin and the end of the part that a header Range names; None for the whole file.

    A header with several ranges, or of another form, means the whole file.

    Raises:
        HTTPException: 416, the file has no such part.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        begin, end = max(size - int(found[2]), 0), size
    else:
        begin, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < begin:
            return None
    if begin >= end:
        message = f"the file has {size} bytes: ask for a part of them"
        raise HTTPException(416, message, {"Content-Range": f"bytes */{size}"})
    return begin, end


class FileDownload(Response):
    """The response with a file or a part of the file; closes the file.

    Args:
        file: the file.
        part: the begin and the end of the part; None for the whole file.
    """

    def __init__(self, file: OpenFile, part: tuple[int, int] | None) -> None:
        self._file = file
        self._begin, self._end = part or (0, file.size)
        headers = {
            "Accept-Ranges": "bytes",
            "Content-Disposition": "attachment",
            "Content-Length": str(self._end - self._begin),
        }
        if part is not None:
            headers["Content-Range"] = f"bytes {self._begin}-{self._end - 1}/{file.size}"
        status = 200 if part is None else 206
        super().__init__(None, status, headers, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(_leave_with_client, receive, tasks.cancel_scope)
                with anyio.move_on_after(SEND_SECONDS) as sending:
                    await self._send(send, sending, is_head=scope["method"] == "HEAD")
        finally:
            self._file.close()

    async def _send(self, send: Send, sending: anyio.CancelScope, *, is_head: bool) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        position = self._end if is_head else self._begin
        while position < self._end:
            length = min(_PART_BYTES, self._end - position)
            data = await to_thread.run_sync(self._file.read, position, length)
            if not data:  # the file has become shorter; the client notices the missing end
                return
            position += len(data)
            await send({"type": "http.response.body", "body": data, "more_body": True})
            sending.deadline = anyio.current_time() + SEND_SECONDS
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _leave_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
