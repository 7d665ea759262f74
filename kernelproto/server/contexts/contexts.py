"""Contexts: kernels of users for programs, which run code and read outputs over HTTP.

A context is a kernel of the pool. A context counts towards the limits of its user, is culled and
evicted like all kernels, and has the same id under ``/api/kernels``. A context ends with its
kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException

from kernelproto.confined_folder import HAS_CONFINED_FOLDERS, ConfinedFolder, Refused
from kernelproto.file_owner import Owner
from kernelproto.interfaces import KernelAttributes, User
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import OWN_PYTHON
from kernelproto.pool import PooledKernel
from kernelproto.remote.models import ContextModel, ContextRequest
from kernelproto.server.contexts.runs import Runs
from kernelproto.server.directories import check_path, find_existing_folder, open_folder
from kernelproto.server.kernel_requests import allowed_env, chosen_id
from kernelproto.server.models import KernelRequest, kernel_model, shown_name
from kernelproto.server.settings import Settings
from kernelproto.server.user_kernels import Gone, UserKernels
from kernelproto.supervise import Kernel

# Other names of languages, as e2b has them.
_LANGUAGES = {"js": "javascript", "ts": "typescript"}

_MOST_NAMED = 10


class Context(NamedTuple):
    """A context.

    Args:
        language: the programming language.
        kernel: the kernel.
        runs: the executions.
        folder: the working directory; None if this system cannot confine files.
    """

    language: str
    kernel: Kernel
    runs: Runs
    folder: ConfinedFolder | None


class Contexts:
    """The contexts of all users; those of other users are not found.

    Args:
        user_kernels: starts and finds the kernels.
        finder: the kernel types.
        settings: the settings.
    """

    def __init__(self, user_kernels: UserKernels, finder: KernelFinder, settings: Settings) -> None:
        self._user_kernels = user_kernels
        self._finder = finder
        self._settings = settings
        self._contexts: dict[tuple[str, str], Context] = {}

    async def start(self, user: User, request: ContextRequest, *, gone: Gone) -> ContextModel:
        """Start a context.

        Args:
            user: the user.
            request: the client's request.
            gone: waits for the client to disconnect, which ends a wait in the queue.

        Raises:
            HTTPException: 400, the request is contradictory, or there is no kernel type for the
                language, no such folder, or a variable or sandbox is not allowed; others as for
                ``UserKernels.start``.
            KernelProtoError: as for ``UserKernels.start``.
        """
        kernel_type, language = await self._choose(request)
        env = request.env_vars or {}
        refused = sorted(env.keys() - allowed_env(env, self._settings.allow_env).keys())
        if refused:
            raise HTTPException(
                400,
                f"env_vars: {refused[0][:100]!r} is not allowed: use names that begin with "
                "KERNEL_, or ask the administrator of the server for allow_env",
            )
        path = request.cwd or ""
        try:
            check_path(path)
        except ValueError as error:
            raise HTTPException(400, f"cwd: {error}") from None
        kernel_id = chosen_id(None)
        opened: list[ConfinedFolder] = []

        def register(kernel: Kernel) -> None:
            settings = self._settings
            runs = Runs(kernel, limit=settings.send_buffer_bytes, seconds=settings.replay_seconds)
            context = Context(language, kernel, runs, opened.pop() if opened else None)
            self._contexts[user.name, kernel_id] = context
            kernel.start_task(self._forget_at_end, (user.name, kernel_id), context)

        async def find(root: str, owner: Owner | None) -> str:
            folder = await find_existing_folder(root, path)
            if HAS_CONFINED_FOLDERS:
                opened.append(await to_thread.run_sync(open_folder, root, folder, owner))
            return folder

        wanted = KernelRequest(
            name=kernel_type, kernel_id=kernel_id, env=env, launch_params=request.launch_params
        )
        try:
            await self._user_kernels.start(
                user, wanted, gone=gone, find=find, on_ready=register, kept=False
            )
        except Refused as refusal:
            raise HTTPException(400, f"cwd: {refusal}") from None
        finally:
            for folder in opened:
                folder.close()
        return self.model(user, kernel_id)

    def models(self, user: User) -> list[ContextModel]:
        """Return the models of a user's contexts, in the order of their starts."""
        kernels = self._user_kernels.pool.kernels(user.name)
        found = ((kernel, self._contexts.get((user.name, kernel.kernel_id))) for kernel in kernels)
        return [_model(kernel, context) for kernel, context in found if context is not None]

    def model(self, user: User, context_id: str) -> ContextModel:
        """Return the model of a user's context; raises as ``find`` does."""
        context = self.find(user, context_id)
        return _model(self._user_kernels.find(user, context_id), context)

    def find(self, user: User, context_id: str) -> Context:
        """Return a context of a user.

        Raises:
            HTTPException: 404, the user has no such context.
        """
        context = self._contexts.get((user.name, context_id))
        if context is None or self._user_kernels.pool.find(context_id, user=user.name) is None:
            raise HTTPException(404, f"there is no context {context_id[:100]}")
        return context

    def folder(self, user: User, context_id: str) -> ConfinedFolder:
        """Return the working directory of a context, which the caller closes.

        Raises:
            HTTPException: 404, the user has no such context; 501, this system cannot confine files.
        """
        folder = self.find(user, context_id).folder
        if folder is None:
            raise HTTPException(501, "the system of this server cannot confine files to a folder")
        return folder.folder()

    async def _forget_at_end(self, key: tuple[str, str], context: Context) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._contexts.pop(key, None)
            if context.folder is not None:
                context.folder.close()

    async def _choose(self, request: ContextRequest) -> tuple[str, str]:
        """Return the kernel type for a request, and the language."""
        if request.kernel is not None and request.language is not None:
            raise HTTPException(400, "kernel and language: pass one of them")
        found: dict[str, KernelAttributes] = {}
        async for kernel_type, attributes in self._finder.find_kernels():
            found.setdefault(shown_name(kernel_type), attributes)
            found.setdefault(kernel_type, attributes)
        default = self._settings.kernel
        if request.kernel is not None:
            return request.kernel, _language_of(found, request.kernel)
        if request.language is None:
            return default, _language_of(found, default)
        wanted = request.language.strip().lower()
        wanted = _LANGUAGES.get(wanted, wanted)
        for name in (default, *found):
            usable = name in found and "unavailable" not in found[name]
            if name == default or usable:
                language = _language_of(found, name)
                if language.lower() == wanted:
                    return name, language
        languages = sorted({attributes.get("language", "") for attributes in found.values()} - {""})
        raise HTTPException(
            400,
            f"language: there is no kernel type for {request.language[:100]!r}: use one of "
            f"{', '.join(languages[:_MOST_NAMED]) or '(none)'}",
        )


def _language_of(found: Mapping[str, KernelAttributes], name: str) -> str:
    """Return the language of a kernel type; that of Python for the usual names of ipykernel."""
    attributes = found.get(name) or found.get(shown_name(name))
    if attributes is not None:
        return attributes.get("language", "")
    return "python" if name in OWN_PYTHON else ""


def _model(kernel: PooledKernel, context: Context) -> ContextModel:
    model = kernel_model(kernel)
    return ContextModel(
        id=model.id,
        language=context.language,
        cwd=context.kernel.cwd or "",
        kernel=model.name,
        execution_state=model.execution_state,
        last_activity=model.last_activity,
        process_started=model.process_started,
        previous_end=model.previous_end,
        ends_at=model.ends_at,
        unreachable=model.unreachable,
    )
