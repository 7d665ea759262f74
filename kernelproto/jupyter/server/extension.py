"""The hooks of the extension, which choose the classes of the server before the first kernel."""

# jupyter_server calls the functions, with a configuration without types.
# pyright: basic

from __future__ import annotations

import os

from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.serverapp import ServerApp

from kernelproto.jupyter.server.kernel_manager import KernelProtoMappingKernelManager
from kernelproto.jupyter.server.kernelspecs import KernelProtoKernelSpecManager
from kernelproto.jupyter.server.launch_parameters import add_handlers
from kernelproto.jupyter.server.websocket import KernelProtoWebsocketConnection

_CLASSES = {
    "kernel_manager_class": KernelProtoMappingKernelManager,
    "kernel_spec_manager_class": KernelProtoKernelSpecManager,
    "kernel_websocket_connection_class": KernelProtoWebsocketConnection,
}

# Sections of the configuration in which kernel_manager_class is the class of a single kernel.
_MANAGERS = (
    "MultiKernelManager",
    "AsyncMultiKernelManager",
    "MappingKernelManager",
    "AsyncMappingKernelManager",
)

_DISABLE = "jupyter server extension disable kernelproto.jupyter.server"


def _link_jupyter_server_extension(server: ServerApp) -> None:
    """Choose the classes, unless the user has chosen others or kernels of another server.

    jupyter_server calls this function before making the managers.
    """
    reason = _reason_against(server)
    if reason is not None:
        server.log.warning("kernelproto does not run the kernels of this server: %s", reason)
        return
    for name, chosen in _CLASSES.items():
        setattr(server, name, chosen)


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add the routes, and log whether kernelproto runs the kernels.

    jupyter_server calls this at the end.
    """
    if isinstance(server.kernel_manager, KernelProtoMappingKernelManager):
        add_handlers(server)
        server.log.info("kernelproto runs the kernels of this server (to end that: %s)", _DISABLE)
    elif _reason_against(server) is None:
        server.log.warning(
            "kernelproto does not run the kernels of this server: this version of jupyter_server "
            "has not called the extension before it made its kernel manager"
        )


def _reason_against(server: ServerApp) -> str | None:
    """Return the reason why the classes of the server are left alone; None if there is none."""
    config = server.config
    chosen = [f"ServerApp.{name}" for name in _CLASSES if name in config.ServerApp]
    chosen += [
        f"{section}.kernel_manager_class"
        for section in _MANAGERS
        if "kernel_manager_class" in config.get(section, {})
    ]
    if chosen:
        return f"the configuration sets {', '.join(chosen)}"
    if config.get("GatewayClient", {}).get("url") or os.environ.get(GatewayClient.url_env):
        return "a gateway runs them"
    return None
