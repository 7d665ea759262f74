from __future__ import annotations

import re
import signal
import subprocess
import sys

import httpx
import pytest

from kernelproto.cli.main import main

GUARD_SECONDS = 60


def test_help_is_that_of_the_command(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: kernelproto serve [-h] ")
    assert "python -m" not in out


@pytest.mark.usefixtures("no_leaks")
def test_serves_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "kernelproto", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = None
        while url is None:
            line = process.stderr.readline()
            assert line, "it has ended"
            url = re.search(r"http://[\d.]+:\d+/", line)
        response = httpx.get(url[0] + "api/kernels", timeout=GUARD_SECONDS)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=GUARD_SECONDS)
    assert response.status_code in (401, 403)  # it is the server, and asks who this is
    assert process.returncode == 0
