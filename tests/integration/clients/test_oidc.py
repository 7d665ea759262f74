"""The server with tokens of a real OpenID Connect provider, the certified one for Node.js."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.integration.clients.programs import GUARD_SECONDS
from tests.integration.installing import installed_client

HERE = Path(__file__).parent
AUDIENCE = "https://kernels.test"

pytestmark = pytest.mark.usefixtures("no_leaks")


@dataclass
class Issuer:
    """The provider, which runs.

    Attributes:
        url: its address.
        process: its process.
    """

    url: str
    process: subprocess.Popen[str]

    def token(self, name: str, audience: str = AUDIENCE) -> str:
        """Return a new token for one of its clients."""
        answer = httpx.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": audience, "scope": "kernels"},
            auth=(name, f"{name}-secret"),
            timeout=GUARD_SECONDS,
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def rotate(self) -> None:
        """Have it sign with another key, and tell nobody of the old one any more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while (line := self.process.stdout.readline()) != "rotated\n":
            assert line, "it has ended"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    folder = installed_client("issuer")
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node")
    process = subprocess.Popen(
        [node, str(HERE / "issuer.mjs")],
        env={**os.environ, "KERNELPROTO_ISSUER": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        found = None
        while found is None:
            line = process.stdout.readline()
            assert line, "it has ended"
            found = re.match(r"issuer (\S+)", line)
        yield Issuer(found[1], process)
        process.terminate()


@pytest.fixture
def server(issuer, tmp_path) -> Iterator[httpx.Client]:
    command = [sys.executable, "-m", "kernelproto.server", "--port", "0"]
    command += ["--authentication", "oidc", "--oidc-issuer", issuer.url]
    command += ["--oidc-audience", AUDIENCE, "--oidc-admin-values", "admins"]
    command += ["--failed-logins-per-minute", "0"]
    log = tmp_path / "log"  # a pipe that nobody reads would stop the server
    with log.open("w") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            found = None
            while found is None:
                assert process.poll() is None, log.read_text()
                found = re.search(r"http://[\d.]+:\d+/", log.read_text())
            with httpx.Client(base_url=found.group(), timeout=GUARD_SECONDS) as client:
                yield client
        finally:
            process.terminate()
            process.wait(timeout=GUARD_SECONDS)


def test_tokens_of_a_real_provider(issuer, server) -> None:
    def ask(token: str) -> httpx.Response:
        return server.get("/api/me", headers={"authorization": f"Bearer {token}"})

    old = issuer.token("ada")
    assert ask(old).json()["identity"]["username"] == "ada"
    assert ask(issuer.token("ada", "https://other.test")).status_code == 403
    header, claims, signature = old.split(".")
    assert ask(f"{header}.{claims}.{signature[::-1]}").status_code == 403
    for name, status in [("ada", 403), ("root", 200)]:
        headers = {"authorization": f"Bearer {issuer.token(name)}"}
        assert server.get("/metrics", headers=headers).status_code == status


def test_provider_that_changes_its_key(issuer, server) -> None:
    def status(token: str) -> int:
        return server.get("/api/me", headers={"authorization": f"Bearer {token}"}).status_code

    issuer.rotate()  # before the server has asked for a key
    assert status(issuer.token("ada")) == 200
    issuer.rotate()
    new = issuer.token("ada")
    while status(new) != 200:  # it asks for keys again, but not more often than every 10 seconds
        pass
