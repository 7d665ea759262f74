from __future__ import annotations

import os

import pytest

from kernelproto.testing.leftovers import belongings, gone


@pytest.mark.anyio
async def test_leftovers_are_named() -> None:
    before = belongings()
    descriptor = os.open(os.devnull, os.O_RDONLY)
    assert await gone(before, 0.05) == {f"descriptor {descriptor} {os.devnull}"}
    os.close(descriptor)
    assert await gone(before, 0.05) == set()


def test_no_leftovers_without_proc(monkeypatch) -> None:
    def no_such_folder(path: str) -> list[str]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", no_such_folder)
    assert belongings() == set()
