from __future__ import annotations

import re

import httpx
import pytest

from kernelproto.cli.main import main

GUARD_SECONDS = 60


def test_help_is_that_of_the_command(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: kernelproto serve [--config FILE] ")
    assert "python -m" not in out


@pytest.mark.usefixtures("no_leaks")
def test_serves_until_ctrl_c(terminal) -> None:
    screen = terminal("serve", "--port", "0")

    screen.until("?token=")
    url = re.search(r"http://[\d.]+:\d+/", screen.text)[0]
    response = httpx.get(url + "api/kernels", timeout=GUARD_SECONDS)
    screen.type("\x03")
    assert screen.end() == 0
    assert response.status_code in (401, 403)  # it is the server, and asks who this is
