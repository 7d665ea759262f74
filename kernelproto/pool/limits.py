"""Limits of a pool and of the kernels in it. Pure."""

from __future__ import annotations

import msgspec


class LeaseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that may differ between users and between kernels.

    Args:
        max_per_user: how many kernels the user may have.
        idle_timeout: idle seconds after which the kernel is culled; None means never.
        max_age: seconds from the start of a kernel until its end, even if the kernel is in use;
            None means no limit.
        cull_connected: whether an idle kernel is culled although clients are connected.

    Raises:
        ValueError: a limit is 0 or less.
    """

    max_per_user: int = 1
    idle_timeout: float | None = 1800.0
    max_age: float | None = None
    cull_connected: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that allow no kernel."""
        if self.max_per_user < 1:
            raise ValueError(f"max_per_user must be at least 1, not {self.max_per_user}")
        for name in ("idle_timeout", "max_age"):
            seconds: float | None = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be None or a positive number of seconds")


class PoolLimits(LeaseLimits, frozen=True, kw_only=True):
    """The limits of a pool, and the defaults for users and kernels.

    Args:
        max_kernels: how many kernels may exist, including kernels that start or end.

    Raises:
        ValueError: a limit is 0 or less.
    """

    max_kernels: int = 50

    def __post_init__(self) -> None:
        """Refuse limits that allow no kernel."""
        LeaseLimits.__post_init__(self)
        if self.max_kernels < 1:
            raise ValueError(f"max_kernels must be at least 1, not {self.max_kernels}")
