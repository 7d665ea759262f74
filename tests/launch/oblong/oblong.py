"""Kernels in two colours: a kernel provider as other packages may have it, without base class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from kernelproto import ConnectionInfo, KernelManager, NoSuchKernel
from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.providers import IPykernelProvider


class OblongProvider:
    id = "oblong"

    def __init__(self) -> None:
        self._python = IPykernelProvider()
        self._shades = {"red": "crimson", "blue": "navy"}

    def load_config(self, config: Mapping[str, object] | None) -> None:
        self._shades |= {colour: str(shade) for colour, shade in (config or {}).items()}

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        for colour in self._shades:
            yield colour, {"display_name": f"Oblong ({colour})", "language": "python"}

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        if name not in self._shades:
            raise NoSuchKernel(f"oblong comes in {', '.join(self._shades)}, not in {name!r}")
        arguments = ["--IPKernelApp.exec_lines", f"shade = {self._shades[name]!r}"]
        params = {"extra_arguments": arguments, **(launch_params or {})}
        return await self._python.launch("kernel", cwd=cwd, launch_params=params)
