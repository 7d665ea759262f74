"""KeptClients: serves the clients of kernels that have outlived an earlier server.

A host runs the kernels where that is possible. The host keeps the messages that the server has not
acknowledged, and some acknowledged ones. The server acknowledges a message that the replay log no
longer needs: all clients of the kernel have received the message, or the limits of the log have
evicted it. The next server receives the kept messages again, and each client continues after its
last message.

Kernels without a host send to a connection that is gone. The next server tells the clients of cells
that were under way that outputs may be missing, and replies on behalf of the kernel.
"""

from __future__ import annotations

import logging
from functools import partial

from kernelproto.fanout.broadcast import Broadcast
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.fanout.handover import Handover
from kernelproto.interfaces import User
from kernelproto.pool import KernelPool, RestoredKernel
from kernelproto.server.user_kernels import UserKernels

logger = logging.getLogger(__name__)


class KeptClients:
    """Stores the clients of each kernel and their open requests, for the next server.

    Args:
        pool: the kernels; without a registry nothing is stored.
        broadcasts: the messages of the kernels.
        user_kernels: ends the kernels of users that have lost access.
    """

    def __init__(self, pool: KernelPool, broadcasts: Broadcasts, user_kernels: UserKernels) -> None:
        self._pool = pool
        self._broadcasts = broadcasts
        self._user_kernels = user_kernels

    def resume(self) -> None:
        """Serve the clients of earlier servers on, as soon as their kernels are ready."""
        self._pool.watch_restored(self._take_over)

    def store(self, broadcast: Broadcast, user: str, name: str) -> None:
        """Store the clients of a kernel from now on.

        Args:
            broadcast: the messages of the kernel.
            user: the owner of the kernel.
            name: the name of the kernel.
        """
        if self._pool.registry is not None:
            make = partial(_handover, broadcast)
            broadcast.store_with(partial(self._pool.note, user, make, name=name))

    def _take_over(self, restored: RestoredKernel) -> None:
        broadcast = self._broadcasts.of(restored.kernel)
        self.store(broadcast, restored.user, restored.name)
        handover = Handover()
        if restored.note:
            try:
                handover = Handover.from_json(restored.note)
            except ValueError as error:
                logger.warning("the clients of kernel %s are unknown: %s", restored.name, error)
        broadcast.take_over(handover, restored.messages, missing=restored.missing)
        self._user_kernels.end_when_revoked(restored.kernel, User(restored.user), restored.name)


def _handover(broadcast: Broadcast) -> str:
    return broadcast.handover().to_json()
