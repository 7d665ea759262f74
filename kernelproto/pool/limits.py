"""Limits of a pool and of its kernels. Pure."""

from __future__ import annotations

import msgspec


class LeaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that may differ between users and between kernels.

    Args:
        max_per_user: how many kernels the user may have.
        idle_timeout: after how many idle seconds the kernel is culled; None means never.
        max_age: how many seconds after its start the kernel is ended, whether it is in use or not;
            None means never.
        cull_connected: whether the kernel is culled although clients are connected to it.

    Raises:
        ValueError: a limit is 0 or less.
    """

    max_per_user: int = 1
    idle_timeout: float | None = 1800.0
    max_age: float | None = None
    cull_connected: bool = False

    def __post_init__(self) -> None:
        """Refuse limits with which there would be no kernels."""
        if self.max_per_user < 1:
            raise ValueError("max_per_user is a number of kernels, 1 or more")
        for name in ("idle_timeout", "max_age"):
            seconds: float | None = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} is a positive number of seconds, or None")


class Limits(LeaseLimits, frozen=True, kw_only=True):
    """The limits of a pool, with those of a lease that has none of its own.

    Args:
        max_kernels: how many kernels there may be, those that start and end included.

    Raises:
        ValueError: a limit is 0 or less.
    """

    max_kernels: int = 50

    def __post_init__(self) -> None:
        """Refuse limits with which there would be no kernels."""
        LeaseLimits.__post_init__(self)
        if self.max_kernels < 1:
            raise ValueError("max_kernels is a number of kernels, 1 or more")
