from __future__ import annotations

import anyio
import pytest

from kernelproto.client.heartbeat import until_silent
from kernelproto.exceptions import KernelDied

pytestmark = pytest.mark.anyio


class Kernel:
    """Echoes some heartbeats and ignores all others."""

    def __init__(self, *, ignored: set[int] = frozenset(), last: int = 0) -> None:
        self.beats = 0
        self._ignored = ignored
        self._last = last

    async def heartbeat(self) -> float:
        self.beats += 1
        if self.beats in self._ignored or self.beats > self._last:
            await anyio.sleep_forever()
        return 0.0


async def test_three_heartbeats_in_a_row_without_an_echo_are_silence() -> None:
    kernel = Kernel()
    await until_silent(kernel, 0.03)
    assert kernel.beats == 3


async def test_an_echo_begins_the_count_again() -> None:
    kernel = Kernel(ignored={1, 2, 4}, last=5)
    await until_silent(kernel, 0.03)
    assert kernel.beats == 8


async def test_the_error_of_the_client_is_raised() -> None:
    class Dead:
        async def heartbeat(self) -> float:
            raise KernelDied("it has died")

    with pytest.raises(KernelDied):
        await until_silent(Dead(), 60)
