# ruff: noqa: PT012 (what a whole block raises is the subject here)
"""Encrypted kernels: the real one, and a scripted one with other people's mistakes."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import anyio
import msgspec
import pytest

from kernelproto import (
    InvalidLaunchParameter,
    KernelDied,
    KernelNotReady,
    Stream,
    Timeouts,
    connect_kernel,
    run_kernel,
)
from kernelproto.transport.curve import new_curve_keys

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 90
SCRIPT = Path(__file__).with_name("share") / "kernels" / "scripted" / "kernel.py"


@pytest.fixture(autouse=True)
def encrypting_kernel(write_kernelspec) -> None:
    """Install ``spec/encrypting``, which is ``spec/scripted`` with a kernelspec that says so."""
    write_kernelspec(
        "encrypting",
        argv=["python", "-I", str(SCRIPT), "{connection_file}", "{habits}"],
        metadata={"supported_encryption": ["curve"]},
    )


async def talks(client) -> bool:
    """Whether requests, replies, outputs and heartbeats get through."""
    result = await client.execute("say('hello', parent)")
    outputs = [output.text for output in result.outputs if isinstance(output, Stream)]
    return outputs == ["hello"] and await client.heartbeat() > 0


async def test_ipykernel_over_tcp_without_its_warning() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("pyimport/kernel", transport="tcp") as kernel:
            assert kernel.connection_info.encrypted
            assert (await kernel.execute("print('hello')")).stdout == "hello\n"
            answered = await kernel.execute("input()", on_input=lambda _: "hello")
            assert answered.text == "'hello'"
            async with connect_kernel(kernel.manager.connection_file) as client:
                assert (await client.execute("6 * 7")).text == "42"
                assert await client.heartbeat() > 0
            assert "without encryption" not in kernel.manager.output_tail()


async def test_ipykernel_over_ipc_where_encryption_is_required() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("pyimport/kernel", encryption="required") as kernel:
            assert kernel.connection_info.transport == "ipc"
            assert kernel.connection_info.encrypted
            assert (await kernel.execute("6 * 7")).text == "42"


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_other_clients_need_the_public_key_only(transport) -> None:
    async with run_kernel("spec/encrypting", transport=transport, encryption="required") as kernel:
        info = kernel.connection_info
        assert await talks(kernel.client)
        async with connect_kernel(msgspec.structs.replace(info, curve_secretkey="")) as client:
            assert await talks(client)
        contents = msgspec.to_builtins(info) | {"key": info.key.encode()}
        async with connect_kernel(contents) as client:
            assert await talks(client)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("publickey", ["", new_curve_keys().public], ids=["no key", "another key"])
async def test_strangers_get_nothing_but_a_clear_error(transport, publickey) -> None:
    async with run_kernel("spec/encrypting", transport=transport, encryption="required") as kernel:
        stranger = msgspec.structs.replace(
            kernel.connection_info, curve_publickey=publickey, curve_secretkey=""
        )
        with pytest.raises(KernelNotReady, match="curve_publickey") as caught:
            async with connect_kernel(stranger, timeouts=Timeouts(startup=0.3)):
                raise AssertionError("it was let in")
        assert caught.value.phase == "kernel_info_reply"
        assert await talks(kernel.client)


async def test_kernel_that_ignores_the_keys() -> None:
    with pytest.raises(KernelNotReady, match="encryption='disabled'"):
        async with run_kernel(
            "spec/encrypting",
            transport="tcp",
            launch_params={"habits": "plain"},
            timeouts=Timeouts(startup=1.0),
        ):
            raise AssertionError("it is ready")
    async with run_kernel(
        "spec/encrypting",
        transport="tcp",
        encryption="disabled",
        launch_params={"habits": "plain"},
    ) as kernel:
        assert not kernel.connection_info.encrypted
        assert await talks(kernel.client)


async def test_kernel_that_cannot_encrypt_is_not_started(runtime_dir) -> None:
    with pytest.raises(InvalidLaunchParameter, match="supported_encryption"):
        async with run_kernel("spec/scripted", encryption="required"):
            raise AssertionError("it was started")
    async with run_kernel("spec/scripted", transport="tcp") as kernel:
        assert not kernel.connection_info.encrypted


async def test_keys_are_in_no_log_message_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelDied) as died:
        async with run_kernel("spec/encrypting", transport="tcp") as kernel:
            info, path = kernel.connection_info, kernel.manager.connection_file
            async with connect_kernel(path) as client:
                assert await talks(client)
            await kernel.execute("os._exit(3)")
    with pytest.raises(KernelNotReady) as not_ready:
        async with connect_kernel(info, timeouts=Timeouts(startup=0.01)):
            raise AssertionError("it still runs")
    shown = [caplog.text, repr(info)]
    for error in (died.value, not_ready.value):
        shown += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    for key in (info.key, info.curve_publickey, info.curve_secretkey):
        assert key
        assert not any(key[:8] in text for text in shown)
