from __future__ import annotations

import os

import pytest

from kernelproto.testing.leftovers import belongings, gone


@pytest.mark.anyio
async def test_what_is_left_is_named() -> None:
    before = belongings()
    descriptor = os.open(os.devnull, os.O_RDONLY)
    assert await gone(before, 0.05) == {f"descriptor {descriptor} {os.devnull}"}
    os.close(descriptor)
    assert await gone(before, 0.05) == set()


def test_without_proc_nothing_can_be_seen(monkeypatch) -> None:
    def no_such_folder(path: str) -> list[str]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", no_such_folder)
    assert belongings() == set()
