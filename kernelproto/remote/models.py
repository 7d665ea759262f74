"""The JSON of the requests to ``/api/contexts`` and of their responses. Pure.

Unknown fields of a request are refused, because the server would ignore them otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

# The size of each field is checked before the server uses, stores or logs the value.
_Name = Annotated[str, Meta(max_length=255)]
_Path = Annotated[str, Meta(max_length=4096)]
# Linux refuses a variable of 128 KiB or more.
_Variables = Annotated[
    dict[_Name, Annotated[str, Meta(max_length=128 * 1024)]], Meta(max_length=1000)
]

# The largest Idempotency-Key, in characters.
MOST_KEY_CHARACTERS = 255
Key = Annotated[str, Meta(min_length=1, max_length=MOST_KEY_CHARACTERS)]

OnDisconnect: TypeAlias = Literal["interrupt", "continue"]


class LaunchRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """Launch parameters of a kernel that a client may choose.

    Args:
        sandbox: settings of a sandbox; none may be weaker than that of the server.
    """

    sandbox: dict[str, Any] | None = None


class ContextRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A request for a new context.

    Args:
        language: a programming language; the server chooses a kernel type for this language.
        kernel: a kernel type, instead of a language.
        cwd: the working directory, relative to the root folder of the server; must exist.
        env_vars: environment variables; only those that the server allows.
        launch_params: launch parameters of the kernel.
    """

    language: _Name | None = None
    kernel: _Name | None = None
    cwd: _Path | None = None
    env_vars: _Variables | None = None
    launch_params: LaunchRequest | None = None


class ContextModel(msgspec.Struct, omit_defaults=True):
    """A context: a kernel with variables.

    Args:
        id: the id of the context and of the kernel.
        language: the programming language.
        cwd: the absolute path of the working directory on the server.
        kernel: the kernel type.
        execution_state: "starting", "idle", "busy", "restarting" or "dead"; also "busy" while the
            kernel cannot be reached.
        last_activity: when the context last worked.
        process_started: when the process was ready. If a client knows an earlier time, the
            variables are gone.
        previous_end: how the previous process ended; absent for the first one.
        ends_at: when the server will end the context if nothing changes; absent if never.
        unreachable: why the server cannot reach the kernel, which may still run; otherwise absent.
    """

    id: str
    language: str
    cwd: str
    kernel: str
    execution_state: str
    last_activity: str
    process_started: str | None = None
    previous_end: str | None = None
    ends_at: str | None = None
    unreachable: str | None = None


class ExecuteRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A request to run code.

    Args:
        code: the code, in the language of the context.
        timeout: the seconds that the code may run; the time in the queue does not count. Absent for
            no limit.
        on_timeout: the action if the code ignores the interrupt after the timeout.
        silent: whether to run the code without output, history and execution count.
        store_history: whether the code goes into the history of the kernel.
        stop_on_error: whether an error makes the kernel abort the executions in its queue.
        on_disconnect: whether the code is interrupted or goes on when no client reads the outputs.
    """

    code: str
    timeout: Annotated[float, Meta(ge=0)] | None = None
    on_timeout: Literal["raise", "restart"] = "raise"
    silent: bool = False
    store_history: bool = True
    stop_on_error: bool = False
    on_disconnect: OnDisconnect = "interrupt"


class InterruptRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A request to interrupt a context.

    Args:
        idempotency_key: the key of the only execution to interrupt; absent to interrupt the code
            that runs.
    """

    idempotency_key: Key | None = None


class FileModel(msgspec.Struct):
    """A file of a context.

    Args:
        name: the path, relative to the working directory of the context.
        size: the size, in bytes.
    """

    name: str
    size: int


class FileList(msgspec.Struct):
    """The files of a context.

    Args:
        files: the files, by name.
        complete: whether these are all; a long list is cut.
    """

    files: list[FileModel]
    complete: bool


class ErrorModel(msgspec.Struct):
    """The body of a response with an error.

    Args:
        message: the fault, and the remedy.
        reason: the meaning of the status.
    """

    message: str
    reason: str
