"""Forged, repeated and broken messages on a real connection: refused, counted, logged, survived."""

from __future__ import annotations

import logging

import pytest

from kernelproto import RefusedOutput, Stream, run_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

# Runs in the kernel. Between attacks it says "1", "2", ..., which must all be heard.
ATTACK = """
import time

def wait_for_client(router):
    router.set(zmq.ROUTER_MANDATORY, True)
    while True:
        try:
            return router.send_multipart([*client, *frames("unknown", {}, parent)])
        except zmq.ZMQError:  # not connected here yet
            time.sleep(0.001)

for router in shell, control, stdin, heartbeat:
    wait_for_client(router)

def signed(header):
    # On iopub an output of this execution; elsewhere it would be its reply, and end it.
    parts = [header, parent if channel == "iopub" else b'{}', b'{}', b'{}']
    return [DELIMITER, sign(parts), *parts]

def honest(msg_type="stream", **content):
    return frames(msg_type, content, parent)

def tampered():
    message = honest(name="stdout", text="innocent")
    message[-1] = message[-1].replace(b"innocent", b"malicious")
    return message

def with_signature(signature):
    message = honest(name="stdout", text="forged")
    message[1] = signature
    return message

def with_another_key(message):
    signature = hmac.new(b"another", b"".join(message[2:]), hashlib.sha256).hexdigest()
    return [message[0], signature.encode(), *message[2:]]

before = honest(name="stdout", text="0")

attacks = {
    "InvalidSignature": [
        tampered(),
        with_signature(b""),
        with_signature(b"0" * 64),
        with_another_key(honest(name="stdout", text="forged")),
        with_signature(before[1]),
        [DELIMITER, *[os.urandom(n) for n in range(8)]],
    ],
    "ReplayedMessage": [before, before],
    "MalformedMessage": [
        [b""],
        [DELIMITER],
        before[:-1],
        before[1:],
        [os.urandom(100) for _ in range(100)],
        signed(header=b"{"),
        signed(header=b"[]"),
        signed(header=b'{"msg_type": "stream"}'),
        signed(header=b"[" * 100_000),
    ],
}

send = {
    "iopub": iopub.send_multipart,
    "shell": lambda message: shell.send_multipart([*client, *message]),
    "control": lambda message: control.send_multipart([*client, *message]),
    "stdin": lambda message: stdin.send_multipart([*client, *message]),
}[channel]

send(before)
count = 0
for kind in attacks.values():
    for message in kind:
        send(message)
        heartbeat.send_multipart([*client, *message])
        say(str(count := count + 1), parent)

stdin.send_multipart([*client, *honest("input_request", prompt="Done?", password=False)])
stdin.recv_multipart()
"""

REFUSED = {"InvalidSignature": 6, "ReplayedMessage": 2, "MalformedMessage": 9}

# Of these the signature is right, and on iopub they are outputs of the execution.
TRACES = 4

# On iopub a message of fewer than six frames arrives joined to the next one, if that is there
# already; then the two are refused together, or the client only receives the next one.
SHORT = 4


@pytest.mark.parametrize("channel", ["iopub", "shell", "control", "stdin"])
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_client_goes_on(channel, transport, caplog: pytest.LogCaptureFixture) -> None:
    async with run_kernel("spec/scripted", transport=transport) as kernel:
        execution = kernel.execute(f"channel = {channel!r}\n{ATTACK}", on_input=lambda _: "Yes.")
        streams = [output async for output in execution if isinstance(output, Stream)]
        traces = [output for output in streams if isinstance(output, RefusedOutput)]
        heard = [output.text for output in streams if output not in traces]
        attacks = range(1, sum(REFUSED.values()) + 1)
        assert len(traces) == (TRACES if channel == "iopub" else 0)
        assert [text for text in heard if text != "0"] == [str(attack) for attack in attacks]
        # The channels overtake each other: the last attack on this one may still be under way.
        await kernel.request("kernel_info_request", {}, "control")
        refused = kernel.client.refused
        if channel == "iopub":
            assert refused.keys() == REFUSED.keys()
            assert refused["ReplayedMessage"] == REFUSED["ReplayedMessage"]
            assert 0 <= sum(REFUSED.values()) - refused.total() <= SHORT
        else:
            assert refused == REFUSED
        result = await kernel.execute("say('still here', parent)")
        assert result.stdout == "still here"
        assert await kernel.client.heartbeat() > 0
    warnings = [record.getMessage() for record in caplog.records]
    # The 1st, 2nd, 4th and 8th refusal of each kind are logged.
    assert len(warnings) == sum(count.bit_length() for count in refused.values())
    assert all(channel in warning for warning in warnings)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_messages_of_unknown_types_and_parents_are_no_intrusion() -> None:
    code = """
for parent_header in [parent, b'{"msg_id": "other", "msg_type": "x"}', b"{}", b"null", b""]:
    for msg_type in ["stream", "unknown", "execute_reply"]:
        iopub.send_multipart(frames(msg_type, {"name": "stdout", "text": "x"}, parent_header))
"""
    async with run_kernel("spec/scripted") as kernel:
        result = await kernel.execute(code)
        assert result.stdout == "x"
        assert kernel.client.refused == {}
