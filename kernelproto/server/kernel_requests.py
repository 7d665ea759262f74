"""The checked parts of a client's request for a kernel: the id and the variables."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from starlette.exceptions import HTTPException

from kernelproto.launch.spec.parameters import literal

_ALLOWED_ENV_PREFIX = "KERNEL_"


def chosen_id(kernel_id: str | None) -> str:
    """Return the id that a client has chosen, in the usual form of a UUID, or a new id.

    Raises:
        HTTPException: 400, the id is not a UUID.
    """
    try:
        return str(uuid.UUID(kernel_id) if kernel_id else uuid.uuid4())
    except ValueError:
        raise HTTPException(400, f"kernel_id: {(kernel_id or '')[:100]!r} is not a UUID") from None


def allowed_env(env: Mapping[str, str], allowed: list[str]) -> dict[str, str]:
    """Return the variables of a client that a kernel may have.

    Their values are quoted: otherwise the launch would replace ``${NAME}`` with a variable of the
    server, which may be a secret.
    """
    return {
        name: literal(value)
        for name, value in env.items()
        if name.startswith(_ALLOWED_ENV_PREFIX) or name in allowed
    }
