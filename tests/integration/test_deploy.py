"""The files in deploy/, if their programs are installed, and the pages that show them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from kernelproto.server.settings_options import OPTIONS
from tests.integration.installing import installed_client
from tests.integration.test_nginx import TOKEN, certificate, check, running, served

pytestmark = pytest.mark.usefixtures("no_leaks")

__all__ = ["certificate"]  # the fixture

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    {file}
}}
"""


def read(file: str, **changes: tuple[str, str]) -> str:
    """Return a file of deploy/ with some parts replaced; each part must exist."""
    text = DEPLOY.joinpath(file).read_text("utf-8")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def proxying(command: Sequence[str], port: int, certificate: Path) -> Iterator[str]:
    """Run a reverse proxy; yield the address of the server below it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with running(process):
        url = f"https://127.0.0.1:{port}/kernels/"
        with httpx.Client(verify=ssl.create_default_context(cafile=certificate)) as client:
            while process.poll() is None:
                try:
                    client.get(f"{url}healthz")
                except httpx.TransportError:
                    continue
                break
            else:
                raise AssertionError(process.communicate()[1])
        yield url


@contextmanager
def behind() -> Iterator[int]:
    """Run the server with the settings of the pages; yield its port."""
    with served("--base-url", "/kernels", "--trusted-proxies", "127.0.0.1") as (address, _):
        port = httpx.URL(address).port
        assert port is not None
        yield port


def test_nginx(tmp_path, certificate) -> None:
    program = installed_client("nginx") / "nginx"
    config = tmp_path / "nginx.conf"
    port = free_port()
    with behind() as upstream:
        file = read(
            "nginx.conf",
            port=("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            name=("kernels.example.org", "127.0.0.1"),
            certificate=("/etc/ssl/certs/kernels.pem", str(certificate[0])),
            key=("/etc/ssl/private/kernels.key", str(certificate[1])),
            upstream=("127.0.0.1:8888", f"127.0.0.1:{upstream}"),
        )
        config.write_text(NGINX.format(folder=tmp_path, file=file))
        command = [str(program), "-p", str(tmp_path), "-c", str(config), "-e", "stderr"]
        with proxying(command, port, certificate[0]) as url:
            check(url, certificate[0], "/kernels")


def test_caddy(tmp_path, certificate, monkeypatch) -> None:
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("there is no caddy")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    config = tmp_path / "Caddyfile"
    port = free_port()
    with behind() as upstream:
        own = f"https://127.0.0.1:{port} {{\n\ttls {certificate[0]} {certificate[1]}"
        file = read(
            "Caddyfile",
            name=("kernels.example.org {", own),
            upstream=("127.0.0.1:8888", f"127.0.0.1:{upstream}"),
        )
        config.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + file)
        command = [program, "run", "--config", str(config), "--adapter", "caddyfile"]
        with proxying(command, port, certificate[0]) as url:
            check(url, certificate[0], "/kernels")


def test_systemd_unit(tmp_path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "kernelproto.service"
    unit.write_text(
        read(
            "kernelproto.service",
            python=("/opt/kernelproto/bin/python", sys.executable),
            user=("User=kernels", "User=root"),
        )
    )
    verified = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_files_and_options_of_the_dockerfile_exist() -> None:
    text = read("Dockerfile")
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert ROOT.joinpath(source).exists()
    (command,) = re.findall(r"^CMD (.+)$", text, re.MULTILINE)
    _, *options = json.loads(command)
    assert options[:2] == ["-m", "kernelproto.server"]
    for option in options[2::2]:
        assert option == "--config" or option.removeprefix("--").replace("-", "_") in OPTIONS


def test_metrics_in_alerts_and_dashboard_are_served() -> None:
    board = json.loads(read("grafana.json"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += re.findall(r"^ +expr: (.+)$", read("alerts.yml"), re.MULTILINE)
    asked = {
        name for text in expressions for name in re.findall(r"(?:kernelproto|process)_\w+", text)
    }
    types = re.findall(r"^# TYPE (\w+) (\w+)$", served_metrics(), re.MULTILINE)
    names = {f"{name}_bucket" if kind == "histogram" else name for name, kind in types}
    assert len(expressions) > 20
    assert asked <= names


def test_label_values_in_alerts_are_served() -> None:
    selectors = re.findall(r'(kernelproto_\w+)\{(\w+)=~?"([^"]+)"\}', read("alerts.yml"))
    asked = {
        f'{name}{{{label}="{value}"}}'
        for name, label, values in selectors
        for value in values.split("|")
    }
    text = served_metrics()
    assert asked
    assert {series for series in asked if f"\n{series} " not in text} == set()


def served_metrics() -> str:
    """Start a server; return its metrics."""
    with served() as (address, _):
        headers = {"authorization": f"token {TOKEN}"}
        return httpx.get(httpx.URL(address).join("/metrics"), headers=headers).text


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("reverse-proxy.md", "nginx.conf"),
        ("reverse-proxy.md", "Caddyfile"),
        ("systemd.md", "kernelproto.service"),
        ("docker.md", "Dockerfile"),
    ],
)
def test_page_shows_the_file(page: str, file: str) -> None:
    shown = textwrap.indent(read(file).expandtabs(4), "    ")
    assert shown in ROOT.joinpath("docs", "howto", page).read_text("utf-8")
