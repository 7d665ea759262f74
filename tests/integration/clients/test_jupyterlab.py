"""JupyterLab in a browser: its server has no kernels of its own, ours is the gateway to them.

With KERNELPROTO_SCREENSHOT=FILE the page is there to be looked at, and one more test runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kernelproto.launch.process.confinement import users_fault
from kernelproto.server import hash_token
from tests.integration.clients.conftest import Node
from tests.integration.clients.notebooks import notebook
from tests.integration.clients.programs import Address, own_folders, serving

CODE = "import os\nprint('hello from', os.environ['KERNELPROTO_KERNEL_ID'])"


@pytest.mark.usefixtures("no_leaks")
def test_person_runs_a_cell(
    node: Node, server: Address, jupyterlab: Path, chromium: Path, tmp_path: Path
) -> None:
    assert output_of(CODE, node, server, jupyterlab, chromium, tmp_path).startswith("hello from ")


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can isolate users")
@pytest.mark.skipif("KERNELPROTO_SCREENSHOT" not in os.environ, reason="it is run by hand")
def test_isolated_user_runs_a_cell(
    node: Node, jupyterlab: Path, chromium: Path, tmp_path: Path
) -> None:
    if (fault := users_fault()) is not None:
        pytest.skip(fault)
    with own_folders() as environment:
        homes, tokens = Path(environment["HOME"], "homes"), Path(environment["HOME"], "users.toml")
        tokens.touch(0o600)
        tokens.write_text(f'[ada]\ntoken = "{hash_token("secret")}"\n')
        config = Path(environment["HOME"], "server.toml")
        config.write_text(
            f'isolate = "users"\nauthentication = "file"\ntoken_file = "{tokens}"\nport = 0\n'
            f'[isolation]\nuids = "2000000000-2000000009"\nfolder = "{homes}"\n'
        )
        command = [sys.executable, "-m", "kernelproto.server", "--config", str(config)]
        with serving(*command, env=environment, says=r"(http://127\S+[0-9])") as program:
            server = Address(program.said[1], "secret")
            code = "import os\nprint(os.getuid(), os.getcwd())"
            said = output_of(code, node, server, jupyterlab, chromium, tmp_path)
            assert said.split() == ["2000000000", str(homes / "ada")]


def output_of(
    code: str, node: Node, server: Address, jupyterlab: Path, chromium: Path, folder: Path
) -> str:
    """Return the output of the only cell of a notebook, as JupyterLab shows it."""
    (folder / "hello.ipynb").write_text(notebook([code], "fork/kernel", "Forked"))
    with own_folders() as environment:
        options = [
            f"--gateway-url={server.url}",
            f"--GatewayClient.auth_token={server.token}",
            f"--ServerApp.root_dir={folder}",
            "--IdentityProvider.token=t",
            "--no-browser",
            "--port=0",
            "--allow-root",
        ]
        command = [str(jupyterlab), "-m", "jupyterlab", *options]
        with serving(*command, env=environment, says=r"(http://127\S+)/lab\?token=") as lab:
            url = f"{lab.said[1]}/doc/tree/hello.ipynb?token=t"
            screenshot = os.environ.get("KERNELPROTO_SCREENSHOT", "")
            return node("jupyterlab.mjs", chromium, url, screenshot)
