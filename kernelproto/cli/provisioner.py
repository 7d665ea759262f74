"""``kernelproto provisioner``: the kernelspecs that jupyter_client launches with kernelproto."""

from __future__ import annotations

from kernelproto.cli.table import printable
from kernelproto.jupyter.kernelspecs import disable_provisioner, enable_provisioner


def choose_provisioner(name: str, *, enable: bool) -> None:
    """Change the provisioner of a kernelspec, and print the path of the kernel.json."""
    path = (enable_provisioner if enable else disable_provisioner)(name)
    state = "now names" if enable else "no longer names"
    print(f"{printable(path)} {state} the provisioner kernelproto")
