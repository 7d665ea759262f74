"""Take pictures of JupyterLab in Chromium with a kernel on an engine, the same page for each.

Run by hand, as root, after ``make clients`` and ``make cluster`` or ``make kubernetes``:
``python -m tests.integration.lab_pictures ENGINE PICTURE``. ENGINE is ``container``, ``slurm`` or
``kubernetes``, PICTURE the PNG file that is written. The notebook has two cells, which a person
runs: the first prints where it runs, the second draws a line chart. The exit status is 1 if a cell
does not run, or if a container, job, pod or Secret is left after the kernel was shut down.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.integration.clients.notebooks import notebook
from tests.integration.clients.programs import GUARD_SECONDS, Address, own_folders, serving
from tests.integration.engines import ENGINES, open_engine
from tests.integration.installing import installed_client

SCRIPT = Path(__file__).parent / "clients" / "lab_pictures.mjs"

CELLS = (
    """\
import os, pathlib, socket
parent = pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\\0")
print("kernel type", "KERNEL_TYPE")
print("machine", os.environ.get("HOSTNAME", socket.gethostname()))
print("parent", b" ".join(parent[:4]).decode())
for name in ("POD_IP", "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "container"):
    if name in os.environ: print(name, os.environ[name])""",
    """\
%matplotlib inline
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(5, 2))
axes.plot([n * n for n in range(20)]);""",
)


def main(kind: str, picture: Path) -> int:
    places = {"container": "in a container", "slurm": "on Slurm", "kubernetes": "on Kubernetes"}
    with open_engine(kind, display_name=f"Python {places[kind]}") as engine:
        with own_folders() as environment:
            kernel_type = f"{kind}/python"
            home = Path(environment["HOME"])
            sources = [source.replace("KERNEL_TYPE", kernel_type) for source in CELLS]
            (home / "engine.ipynb").write_text(notebook(sources, kernel_type, kernel_type))
            config = home / "server.toml"
            config.write_text(f"[providers]\n{kind} = {toml(engine.config)}\n")
            command = [sys.executable, "-m", "kernelproto.server", "--config", str(config)]
            command += ["--port", "0", "--kernel", kernel_type, "--root-dir", str(home)]
            says = r"(http://\S+)/\?token=(\S+)"
            with serving(*command, env=environment, says=says) as program:
                server = Address(*program.said.groups())
                try:
                    sys.stdout.write(person(server, home, environment, picture))
                finally:
                    shut_down(server)
        deadline = time.monotonic() + GUARD_SECONDS
        while (left := engine.left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        sys.stdout.write(f"{kind}: left behind: {left}\n")
        return int(bool(left))


def person(server: Address, home: Path, environment: dict[str, str], picture: Path) -> str:
    """Run the cells in JupyterLab, take the picture, and return the outputs."""
    python = installed_client("jupyterlab") / "bin" / "python"
    options = [f"--gateway-url={server.url}", f"--GatewayClient.auth_token={server.token}"]
    options += [f"--ServerApp.root_dir={home}", "--IdentityProvider.token=t"]
    options += ["--no-browser", "--port=0", "--allow-root"]
    command = [str(python), "-m", "jupyterlab", *options]
    with serving(*command, env=environment, says=r"(http://127\S+)/lab\?token=") as lab:
        url = f"{lab.said[1]}/doc/tree/engine.ipynb?token=t"
        chromium = installed_client("chromium") / "chromium"
        node = shutil.which("node") or "node"
        return subprocess.run(
            [node, str(SCRIPT), str(chromium), url, str(picture.resolve())],
            env={**os.environ, "KERNELPROTO_NODE": str(installed_client("node"))},
            stdout=subprocess.PIPE,
            text=True,
            timeout=4 * GUARD_SECONDS,
            check=True,
        ).stdout


def shut_down(server: Address) -> None:
    headers = {"authorization": f"token {server.token}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=GUARD_SECONDS) as client:
        for kernel in client.get("/api/kernels").raise_for_status().json():
            client.delete(f"/api/kernels/{kernel['id']}").raise_for_status()


def toml(value: Any) -> str:
    """Return a value as TOML, without the fields that are None."""
    if isinstance(value, Mapping):
        given = ((key, each) for key, each in value.items() if each is not None)
        return f"{{{', '.join(f'{json.dumps(key)} = {toml(each)}' for key, each in given)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ENGINES:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
