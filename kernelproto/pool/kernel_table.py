"""KernelTable: the kernels of a pool, by slot and by id."""

from __future__ import annotations

from collections.abc import Iterator

from kernelproto.pool.pooled_kernel import ManagedKernel


class KernelTable:
    """The kernels of a pool, by slot and by id."""

    def __init__(self) -> None:
        self._by_number: dict[int, ManagedKernel] = {}
        self._by_id: dict[str, dict[int, None]] = {}

    def __getitem__(self, number: int) -> ManagedKernel:
        return self._by_number[number]

    def __iter__(self) -> Iterator[ManagedKernel]:
        return iter(self._by_number.values())

    def add(self, managed: ManagedKernel) -> None:
        """Add a kernel."""
        self._by_number[managed.number] = managed
        self._by_id.setdefault(managed.kernel_id, {})[managed.number] = None

    def remove(self, managed: ManagedKernel) -> None:
        """Remove a kernel."""
        del self._by_number[managed.number]
        same_id = self._by_id[managed.kernel_id]
        del same_id[managed.number]
        if not same_id:
            del self._by_id[managed.kernel_id]

    def with_id(self, kernel_id: str) -> list[int]:
        """Return the slots of the kernels of all users with an id, in the order of their starts."""
        return list(self._by_id.get(kernel_id, ()))
