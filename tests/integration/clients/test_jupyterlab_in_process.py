"""JupyterLab in a browser: its server runs its kernels with kernelproto, in its process.

With KERNELPROTO_SCREENSHOTS=FOLDER, pictures of the pages are written to that folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.clients.conftest import Node
from tests.integration.clients.notebooks import notebook
from tests.integration.clients.programs import own_folders, serving

LONGEST_SCENARIO = 100.0

# The order is that of jupyterlab_in_process.mjs.
CELLS = [
    "import os\nprint('hello')",
    "import ipywidgets\n"
    "slider, label = ipywidgets.IntSlider(value=3), ipywidgets.Label()\n"
    "slider.observe(lambda change: label.set_trait('value', f'moved to {change.new}'), 'value')\n"
    "display(slider, label)",
    "print('hello', input('name? '))",
    "print('looping', flush=True)\nwhile True: pass",
    "print('os' in globals())",
    "import os; os._exit(3)",
    "import os, time\nprint('begin', flush=True)\n"
    "while not os.path.exists('away'): time.sleep(0.01)\n"
    "for i in range(300): print(i, flush=True)\n"
    "print(input('go on? '))",
    "def double(x):\n    y = 2 * x\n    return y\nprint(double(21))",
]


class Lab(NamedTuple):
    """JupyterLab, and the folder that it serves."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def lab(jupyterlab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Run JupyterLab on this Python, which has kernelproto and its configuration."""
    folder = tmp_path_factory.mktemp("notebooks")
    environment = jupyterlab.parents[1]
    (packages,) = environment.glob("lib/python*/site-packages")
    options = [
        f"--app-dir={environment / 'share' / 'jupyter' / 'lab'}",
        f"--ServerApp.root_dir={folder}",
        "--IdentityProvider.token=t",
        "--no-browser",
        "--port=0",
        "--allow-root",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options]
    with own_folders() as variables:
        variables["PYTHONPATH"] = str(packages)
        with serving(*command, env=variables, says=r"(http://127\S+)/lab\?token=") as program:
            yield Lab(program.said[1], folder)


@pytest.mark.parametrize("scenario", ["work", "connections and debugger", "reload"])
def test_persons_at_jupyterlab(node: Node, lab: Lab, chromium: Path, scenario: str) -> None:
    folder = lab.folder / scenario
    folder.mkdir()
    (folder / "a.ipynb").write_text(notebook(CELLS, "python3"))
    screenshots = os.environ.get("KERNELPROTO_SCREENSHOTS", "")
    url = f"{lab.url}/doc/tree/{scenario}/a.ipynb?token=t"

    arguments = [chromium, url, folder, screenshots, scenario]
    node("jupyterlab_in_process.mjs", *arguments, seconds=LONGEST_SCENARIO)
