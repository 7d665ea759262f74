"""Desk: what a user may ask the pool for, as every route and WebSocket does."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping

from starlette.exceptions import HTTPException

from kernelproto.interfaces import User
from kernelproto.pool import KernelPool, PooledKernel
from kernelproto.server.models import KernelModel, KernelRequest, kernel_model, shown_name
from kernelproto.server.settings import Settings

_ALLOWED_ENV_PREFIX = "KERNEL_"


class Desk:
    """Hands a user what is theirs, and knows nothing of what is not.

    Args:
        pool: has the kernels.
        settings: what a client may say about one.
    """

    def __init__(self, pool: KernelPool, settings: Settings) -> None:
        self.pool = pool
        self._settings = settings

    def find(self, user: User, kernel_id: str) -> PooledKernel:
        """Return a user's kernel.

        Raises:
            HTTPException: 404, they have none of this id, whoever else has.
        """
        for kernel in self.pool.kernels(user.name):
            if kernel.kernel_id == kernel_id:
                return kernel
        raise HTTPException(404, f"there is no kernel {kernel_id[:100]}")

    def model(self, user: User, kernel_id: str) -> KernelModel:
        """Return the model of a user's kernel; raises as ``find`` does."""
        return kernel_model(self.find(user, kernel_id))

    async def start(self, user: User, request: KernelRequest) -> KernelModel:
        """Start one more kernel for a user, or find the one that the request names.

        Raises:
            HTTPException: 404, it names one that they do not have.
            KernelProtoError: as for ``KernelPool.get``.
        """
        known_id = request.id or request.kernel_id
        if known_id:
            return self.model(user, known_id)
        kernel_type = request.name
        if kernel_type == shown_name(self._settings.kernel):
            kernel_type = None  # the pool's own, of which some may be warm
        kernel = await self.pool.get(
            user.name,
            name=uuid.uuid4().hex,
            kernel=kernel_type or None,
            cwd=working_directory(self._settings.root_dir, request.path or ""),
            env=allowed_env(request.env or {}, self._settings.allow_env),
        )
        return self.model(user, kernel.kernel_id)

    async def release(self, user: User, kernel_id: str) -> None:
        """End a user's kernel; raises as ``find`` does."""
        await self.pool.release(user.name, name=self.find(user, kernel_id).name)


def allowed_env(env: Mapping[str, str], allowed: list[str]) -> dict[str, str]:
    """Return what of the variables that a client sends a kernel gets."""
    return {
        name: value
        for name, value in env.items()
        if name.startswith(_ALLOWED_ENV_PREFIX) or name in allowed
    }


def working_directory(root: str, path: str) -> str:
    """Return the folder that a document is in, or the nearest one above it that is there.

    Args:
        root: where all paths begin; it is never left, also not by a link.
        path: of a document or a folder, with slashes.
    """
    root = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(root, path.lstrip("/").replace("\0", "")))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder if os.path.commonpath([root, folder]) == root else root
