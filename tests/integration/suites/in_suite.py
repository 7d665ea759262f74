"""A plug-in of pytest in the suite of another program: it has the program use kernelproto.

KERNELPROTO_SUITE_WAY is the name of a function here, or "plain". The outcomes of the tests are
written to the file KERNELPROTO_SUITE_RESULT, as JSON.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_outcomes: dict[str, str] = {}


def provisioner() -> None:
    """Have jupyter_client launch kernels with the provisioner."""
    os.environ["JUPYTER_DEFAULT_PROVISIONER_NAME"] = "kernelproto"


def drop_in() -> None:
    """Replace nbclient's NotebookClient."""
    import nbclient.client

    from kernelproto.jupyter import NotebookClient

    client: Any = NotebookClient
    nbclient.NotebookClient = nbclient.client.NotebookClient = client  # type: ignore[misc]


def facade() -> None:
    """Replace the classes and functions of jupyter_client, before others import them."""
    import jupyter_client
    import jupyter_client.manager

    from kernelproto.jupyter import client

    for name in client.__all__:
        for module in (jupyter_client, jupyter_client.manager):
            if hasattr(module, name):
                setattr(module, name, getattr(client, name))


def engine() -> None:
    """Replace papermill's own engine."""
    from papermill.engines import papermill_engines

    from kernelproto.jupyter.papermill_engine import KernelProtoEngine

    for name in (None, "nbclient"):
        papermill_engines.register(name, KernelProtoEngine)


def extension() -> None:
    """Add the extension to each jupyter_server."""
    from jupyter_server.serverapp import ServerApp

    from kernelproto.jupyter.server import extension

    init_configurables = ServerApp.init_configurables

    def link_first(server: Any) -> None:
        # The servers of the tests name the class that is the default anyway.
        section = server.config.ServerApp
        if "AsyncMappingKernelManager" in str(section.get("kernel_manager_class", "")):
            del section["kernel_manager_class"]
        extension._link_jupyter_server_extension(server)
        init_configurables(server)

    ServerApp.init_configurables = link_first


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ["KERNELPROTO_SUITE_RESULT"]).write_text(json.dumps(_outcomes))


if (way := os.environ.get("KERNELPROTO_SUITE_WAY", "plain")) != "plain":
    {
        "provisioner": provisioner,
        "drop_in": drop_in,
        "facade": facade,
        "engine": engine,
        "extension": extension,
    }[way]()
