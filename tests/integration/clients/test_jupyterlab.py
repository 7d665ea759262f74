"""JupyterLab in a browser: its server has no kernels of its own, ours is the gateway to them.

With KERNELPROTO_SCREENSHOT=FILE the page is there to be looked at.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.clients.conftest import Node
from tests.integration.clients.programs import Address, own_folders, serving

CODE = "import os\nprint('hello from', os.environ['KERNELPROTO_KERNEL_ID'])"

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "id": "1",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": CODE,
        }
    ],
    "metadata": {
        "kernelspec": {"name": "fork/kernel", "display_name": "Forked", "language": "python"}
    },
    "nbformat": 4,
    "nbformat_minor": 5,
}


@pytest.mark.usefixtures("no_leaks")
def test_person_runs_a_cell(
    node: Node, server: Address, jupyterlab: Path, chromium: Path, tmp_path: Path
) -> None:
    (tmp_path / "hello.ipynb").write_text(json.dumps(NOTEBOOK))
    with own_folders() as environment:
        options = [
            f"--gateway-url={server.url}",
            f"--GatewayClient.auth_token={server.token}",
            f"--ServerApp.root_dir={tmp_path}",
            "--IdentityProvider.token=t",
            "--no-browser",
            "--port=0",
            "--allow-root",
        ]
        command = [str(jupyterlab), "-m", "jupyterlab", *options]
        with serving(*command, env=environment, says=r"(http://127\S+)/lab\?token=") as lab:
            url = f"{lab.said[1]}/doc/tree/hello.ipynb?token=t"
            screenshot = os.environ.get("KERNELPROTO_SCREENSHOT", "")
            said = node("jupyterlab.mjs", chromium, url, screenshot)

    assert said.startswith("hello from ")
