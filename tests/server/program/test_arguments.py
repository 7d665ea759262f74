"""The command line of the server."""

from __future__ import annotations

import pytest

from kernelproto.server.program.arguments import build_parser
from kernelproto.server.program.serve import main
from kernelproto.server.settings_options import OPTIONS


@pytest.mark.parametrize("arguments", [["--prot", "1"], ["--port"]])
def test_usage_error_is_one_line(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments, prog="serve")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert arguments[0] in line
    assert line.endswith(" (see serve --help)")


def test_help_describes_the_settings(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "MULTI_USER_JUPYTER_KERNELS" in text
    assert "--max-per-user" in text


def test_every_setting_but_tables_has_an_option() -> None:
    parsed = vars(build_parser("serve").parse_args([]))
    expected = {key for key, option in OPTIONS.items() if not option.table}
    assert parsed.keys() == {"config", "new_token", *expected}
    assert set(parsed.values()) == {None}
