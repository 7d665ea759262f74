"""The server behind Debian's nginx, with TLS at the proxy, and with TLS of its own."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from kernelproto.wire.message import Header, Message
from kernelproto.wire.websocket import V1_SUBPROTOCOL, client_framing
from tests.integration.installing import installed_client

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60
TOKEN = "nginx-token"

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
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location /sub/kernels {{
            proxy_pass http://127.0.0.1:{upstream}{below};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            {prefix}
            proxy_buffering off;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=GUARD_SECONDS)


@contextmanager
def served(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the server; give its address and its process."""
    command = [sys.executable, "-m", "kernelproto.server", "--port", "0", "--token", TOKEN]
    command += ["--log-format", "json", *options]
    with running(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as process:
        assert process.stderr is not None
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "it has ended"
            found = re.search(r"https?://127\.0\.0\.1:\d+\S*", line)
        yield found.group(), process


@contextmanager
def proxied(
    folder: Path, upstream: int, certificate: tuple[Path, Path], *, strips: bool, prefix: bool
) -> Iterator[str]:
    """Run nginx before the server; give the address that clients use."""
    program = installed_client("nginx") / "nginx"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    header = "proxy_set_header X-Forwarded-Prefix /sub/kernels;" if prefix else ""
    config.write_text(
        NGINX.format(
            folder=folder,
            port=port,
            certificate=certificate[0],
            key=certificate[1],
            upstream=upstream,
            below="/" if strips else "",
            prefix=header,
        ).replace("location /sub/kernels {", f"location /sub/kernels{'/' if strips else ''} {{")
    )
    command = [str(program), "-p", str(folder), "-c", str(config), "-e", "stderr"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    with running(process):
        url = f"https://127.0.0.1:{port}/sub/kernels/"
        with httpx.Client(verify=ssl.create_default_context(cafile=certificate[0])) as client:
            while process.poll() is None:
                try:
                    client.get(f"{url}healthz")
                except httpx.TransportError:
                    continue
                break
            else:
                raise AssertionError(process.communicate()[1])
        yield url


def check(url: str, certificate: Path, root: str) -> None:
    """Use everything that has an address in it, as a client of that address."""
    trust = ssl.create_default_context(cafile=certificate)
    headers = {"authorization": f"token {TOKEN}"}
    origin = re.match(r"https://[^/]+", url)
    assert origin is not None
    with httpx.Client(base_url=url, headers=headers, verify=trust, timeout=GUARD_SECONDS) as client:
        page = client.get("./", headers={"accept": "text/html"})
        assert page.status_code == 200
        assert url in page.text  # the address for jupyter lab --gateway-url
        for file in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert client.get(page.url.join(file)).status_code == 200
        started = client.post("api/kernels", headers={"origin": origin[0]})
        assert started.status_code == 201, started.text
        location = started.headers["location"]
        assert location == f"{root}/api/kernels/{started.json()['id']}"
        assert client.get(page.url.join(location)).json()["id"] == started.json()["id"]
        (spec,) = [
            spec
            for spec in client.get("api/kernelspecs").json()["kernelspecs"].values()
            if spec["name"] == "pyimport/kernel"
        ]
        for logo in spec["resources"].values():
            assert logo.startswith(f"{root}/kernelspecs/")
            assert client.get(page.url.join(logo)).status_code == 200
        with connect(
            f"{url}api/kernels/{started.json()['id']}/channels".replace("https", "wss"),
            ssl=trust,
            subprotocols=[V1_SUBPROTOCOL],
            additional_headers=headers,
            origin=origin[0],  # type: ignore[arg-type]
            proxy=None,
        ) as websocket:
            framing = client_framing(websocket.subprotocol)
            header = Header(msg_id="1", msg_type="execute_request", session="s", version="5.4")
            websocket.send(framing.encode("shell", Message.build(header, {"code": "6 * 7"})))
            found = ""
            while "42" not in found:
                _, message = framing.decode(websocket.recv(timeout=GUARD_SECONDS))
                if message.msg_type == "execute_result":
                    found = message.content.data["text/plain"]
        assert client.get("api/me", headers={"authorization": "token wrong"}).status_code == 403


@pytest.mark.parametrize(
    ("base_url", "strips", "prefix"),
    [
        pytest.param("", True, True, id="stripped, with a header"),
        pytest.param("/sub/kernels", True, False, id="stripped"),
        pytest.param("/sub/kernels", True, True, id="stripped, with both"),
        pytest.param("/sub/kernels", False, False, id="not stripped"),
        pytest.param("", False, True, id="not stripped, with a header"),
    ],
)
def test_behind_nginx(tmp_path, certificate, base_url: str, strips: bool, prefix: bool) -> None:
    options = ["--base-url", base_url, "--trusted-proxies", "127.0.0.1"]
    with served(*options) as (address, process):
        upstream = httpx.URL(address).port
        assert upstream is not None
        with proxied(tmp_path, upstream, certificate, strips=strips, prefix=prefix) as url:
            check(url, certificate[0], "/sub/kernels")
            with httpx.Client(verify=ssl.create_default_context(cafile=certificate[0])) as client:
                refused = client.get(
                    f"{url}api/me?token=guess", headers={"x-forwarded-for": "192.0.2.7"}
                )
                assert refused.status_code == 403
            process.terminate()
            assert process.stderr is not None
            lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    events = [line["audit"] for line in lines if "audit" in line]
    # nginx adds the client's own address, which is a trusted proxy's here, behind that one.
    assert [e["address"] for e in events if e["outcome"] == "refused"] == ["127.0.0.1", "192.0.2.7"]


def test_headers_of_a_proxy_that_is_not_trusted_are_ignored() -> None:
    with served() as (address, _):
        headers = {"authorization": f"token {TOKEN}", "x-forwarded-prefix": "/evil"}
        headers["x-forwarded-proto"] = "https"
        page = httpx.get(address, headers=headers).text
        assert "evil" not in page
        assert address in page


def test_tls_of_its_own(certificate) -> None:
    options = ["--certfile", str(certificate[0]), "--keyfile", str(certificate[1])]
    with served(*options, "--base-url", "/sub") as (url, _):
        assert url.startswith("https://")
        assert url.endswith("/sub/")
        check(url, certificate[0], "/sub")
