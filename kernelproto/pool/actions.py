"""Actions: the decisions of a pool's plan, which the executor performs. Pure."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from kernelproto.pool.slots import Lease


class Start(msgspec.Struct, frozen=True):
    """Start a kernel for a lease, with the options of the ticket."""

    slot: int
    lease: Lease
    ticket: int


class HandOver(msgspec.Struct, frozen=True):
    """Hand a kernel, which may still be starting, to a ticket."""

    ticket: int
    slot: int


class Evict(msgspec.Struct, frozen=True):
    """End an idle kernel, because another lease needs the slot."""

    slot: int


class Replace(msgspec.Struct, frozen=True):
    """End a kernel, because a request of the same user replaces it."""

    slot: int


class Cull(msgspec.Struct, frozen=True):
    """End a kernel that has exceeded its idle time."""

    slot: int


class Expire(msgspec.Struct, frozen=True):
    """End a kernel that has reached its maximum age."""

    slot: int


class RefuseFull(msgspec.Struct, frozen=True):
    """Refuse a ticket, because the pool is full and *waiting* leases come first."""

    ticket: int
    waiting: int


class RefuseQuota(msgspec.Struct, frozen=True):
    """Refuse a ticket, because the user has the maximum number of kernels."""

    ticket: int


Action: TypeAlias = Start | HandOver | Evict | Replace | Cull | Expire | RefuseFull | RefuseQuota
