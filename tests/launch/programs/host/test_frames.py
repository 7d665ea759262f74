from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.launch.programs.host import frames
from kernelproto.launch.programs.host.frames import Broken, Frame, FrameReader, pack, pack_json

some_frames = st.lists(
    st.builds(
        Frame,
        st.integers(frames.REQUEST, frames.CLOSED),
        st.integers(0, len(frames.CHANNELS) - 1),
        st.integers(0, 2**64 - 1),
        st.binary(max_size=100),
    )
)


@given(some_frames, st.integers(1, 50))
def test_frames_survive_any_cut(sent, cut) -> None:
    data = b"".join(
        pack(each.kind, each.body, channel=each.channel, number=each.number) for each in sent
    )
    reader = FrameReader(1000)
    found = []
    for at in range(0, len(data), cut):
        found += reader.feed(data[at : at + cut])
    assert found == sent


@pytest.mark.parametrize(
    "head",
    [
        frames.header(frames.MESSAGE, 1001),
        frames.header(frames.REQUEST, frames.REQUEST_BYTES + 1),
        frames.header(0, 0),
        frames.header(99, 0),
        frames.header(frames.ACK, 0, channel=len(frames.CHANNELS)),
    ],
)
def test_length_and_kind_are_checked_before_the_body(head) -> None:
    with pytest.raises(Broken):
        FrameReader(1000).feed(head)


def test_json() -> None:
    (frame,) = FrameReader(0).feed(pack_json(frames.REQUEST, {"op": "é"}, number=3))
    assert frame.number == 3
    assert frame.json() == {"op": "é"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_other_bodies_are_refused(body) -> None:
    with pytest.raises(Broken):
        Frame(frames.REQUEST, 0, 1, body).json()
