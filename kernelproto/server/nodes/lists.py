"""The list of the kernels of all servers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from kernelproto.exceptions import RegistryError
from kernelproto.interfaces import User
from kernelproto.registry import RegisteredKernel
from kernelproto.server.models import KernelModel, shown_name, timestamp
from kernelproto.server.nodes.nodes import Nodes

logger = logging.getLogger(__name__)

_LIST = "/api/kernels"
_UNREACHABLE = "no server can reach the kernel now; it may still run"


async def add_kernels(
    models: list[KernelModel], nodes: Nodes, user: User, *, everyone: bool
) -> list[KernelModel]:
    """Return the kernels of this server and of all others.

    If the registry does not answer, the list has only the kernels of this server. Kernels whose
    server does not answer are unreachable.

    Args:
        models: the kernels of this server.
        nodes: the servers.
        user: the user.
        everyone: whether the list has the kernels of all users, with their owners.
    """
    try:
        found = await nodes.ask_all(user, _LIST, KernelModel, everyone=everyone)
    except RegistryError as error:
        logger.warning("the list lacks the kernels of other servers: %s", error)
        return models
    by_id = {model.id: model for model in found.items}
    by_id |= {model.id: model for model in models}
    unreachable = [
        _unreachable(row, with_owner=everyone)
        for row in found.rows
        # A row without a handle is a start that has not been finished, or a kernel of one server.
        if row.kernel_id not in by_id and row.node != nodes.url and row.handle is not None
    ]
    return [*by_id.values(), *unreachable]


def _unreachable(row: RegisteredKernel, *, with_owner: bool) -> KernelModel:
    return KernelModel(
        id=row.kernel_id,
        name=shown_name(row.kernel_type),
        last_activity=timestamp(datetime.now(UTC) - timedelta(seconds=row.idle)),
        execution_state="busy",  # as in ``kernel_model``
        connections=0,
        owner=row.owner if with_owner else None,
        unreachable=_UNREACHABLE,
    )
