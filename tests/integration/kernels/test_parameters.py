"""Parameters arrive unchanged in kernels of other languages, and no text of them is run as code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from kernelproto import run_kernel
from kernelproto.notebook.parameters import parameters_source
from tests.integration.installing import installed_kernelspec

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.parametrize("anyio_backend", ["asyncio"]),  # the code is the same on each loop
]

GUARD_SECONDS = 60

# Each of these would do more than to be a value, if a language took it for more.
TEXTS = [
    "",
    "plain text",
    "a\nb\r\nc\td",
    "\\",
    "\\\\'",
    '\\"',
    "'; touch injected; '",
    '"; touch injected; "',
    "\\'; touch injected #",
    "$(touch injected)",
    "`touch injected`",
    "${HOME} $HOME #{1} {1} %s ~ *",
    "!! !t !touch",
    "it's !t \\",
    "\x15touch injected\r",  # in a terminal: deletes the line
    "\x03touch injected\n",  # interrupts
    "\x04",
    "\x1b[A\x1b[A\r",
    "\x7f\x08\x12\x16",
    "'); system('touch injected'); ('",
    '"); system("touch injected"); ("',
    "'''; import os; os.system('touch injected'); '''",
    "`); Deno.writeTextFileSync('injected', ''); (`",
    "\u0022; touch injected; \u0027",
    "\\u0022; touch injected; \\u0027",
    "ż ẞ 日本 \U0001f600 e\u0301 \U0001f468\u200d\U0001f469",
    "\u0085 \u00a0 \u2028 \u2029 \u202e \ufeff \U000e0001",
    "\u2018; touch injected; \u2019",
    "/* // -- %{ \n#! \n%%bash\ntouch injected\n",
    "?x\nx?\n;ls\n]add",
    "x" * 6000,
]

PYTHON = "import json; print(json.dumps([{}]))"
JAVASCRIPT = "console.log(JSON.stringify([{}]))"
# By kernelspec: the language, and code that prints the code points of texts as JSON.
LANGUAGES = {
    "ipykernel": ("python", PYTHON),
    "xpython": ("python", PYTHON),
    "deno": ("typescript", JAVASCRIPT),
    "tslab": ("typescript", JAVASCRIPT),
    "ir": (
        "R",
        'cat("[", paste(sapply(list({}), function(t) paste0("[", paste(utf8ToInt(enc2utf8(t)), '
        'collapse = ","), "]")), collapse = ","), "]")',
    ),
}


def code_points(text: str) -> list[int]:
    return [ord(character) for character in text]


async def printed(kernel: Any, code: str) -> str:
    result = await kernel.execute(code, stop_on_error=False)
    result.raise_for_error()
    return result.stdout


@pytest.mark.parametrize("name", LANGUAGES)
async def test_text_arrives_unchanged(name: str, tmp_path: Path) -> None:
    installed_kernelspec(name)
    language, code = LANGUAGES[name]
    names = [f"t{number}" for number in range(len(TEXTS))]
    source = parameters_source(dict(zip(names, TEXTS, strict=True)), language)
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(f"spec/{name}", cwd=tmp_path) as kernel:
            await printed(kernel, source)
            if language == "python":
                names = [f"list(map(ord, {name}))" for name in names]
            elif language == "typescript":
                names = [f"[...{name}].map(c => c.codePointAt(0))" for name in names]
            text = await printed(kernel, code.format(", ".join(names)))
    assert json.loads(text) == [code_points(text) for text in TEXTS]
    assert not (tmp_path / "injected").exists()


async def test_text_arrives_unchanged_in_bash(tmp_path: Path) -> None:
    installed_kernelspec("bash")
    parameters = {f"t{number}": text for number, text in enumerate(TEXTS)}
    table = {text: text for text in TEXTS if text}
    source = parameters_source(parameters | {"list": TEXTS, "table": table}, "bash")
    # As bytes, because the kernel decodes outputs, and takes some for its own.
    show = "od -An -v -tx1 | tr -d ' \\n'; echo"
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("spec/bash", cwd=tmp_path) as kernel:
            await printed(kernel, source)
            each = await printed(
                kernel, "\n".join(f'printf %s "${name}" | {show}' for name in parameters)
            )
            items = await printed(
                kernel, f'for t in "${{list[@]}}"; do printf %s "$t" | {show}; done'
            )
            keys = await printed(
                kernel, f'for t in "${{!table[@]}}"; do printf %s "$t" | {show}; done'
            )
            same = await printed(
                kernel, 'for t in "${!table[@]}"; do [ "$t" = "${table[$t]}" ] && echo same; done'
            )
    sent = [text.encode().hex() for text in TEXTS]
    assert each.splitlines() == items.splitlines() == sent
    assert sorted(keys.splitlines()) == sorted(hexed for hexed in sent if hexed)
    assert same.split() == ["same"] * len(table)
    assert not (tmp_path / "injected").exists()
