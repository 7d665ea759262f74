"""Send messages without buffers in fewer steps.

jupyter_client looks up five traits for each message, measures each frame in a list, and checks
buffers, trackers and kinds of sockets of which an ipykernel rarely has any. Messages with buffers,
and all others that are not plain, are sent by jupyter_client's own code.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from .hook import SESSION, Hook, Need, find
from .streams import Direct


@cache
def plain_streams() -> frozenset[type]:
    """Return the classes of the streams on which an ipykernel sends."""
    places = (
        "zmq:Socket",
        "zmq.eventloop.zmqstream:ZMQStream",
        "ipykernel.iostream:BackgroundSocket",
    )
    return frozenset({Direct, *map(find, places)})


@cache
def done() -> Any:
    """Return the tracker of a message that was sent already."""
    return find("jupyter_client.session:DONE")


def is_plain(traits: dict[str, Any]) -> bool:
    """Return whether a session has no other work than to send a message.

    Args:
        traits: the values of the session's traits; one that has no value yet is not plain.
    """
    return not (
        traits.get("debug", True)
        or traits.get("adapt_version", True)
        or (traits.get("check_pid", True) and traits.get("pid") != os.getpid())
        or "copy_threshold" not in traits
    )


class SendPlainly:
    """The part of a Session that sends a message."""

    def send(
        self: Any,
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        ident: Any = None,
        buffers: Any = None,
        track: bool = False,
        header: Any = None,
        metadata: Any = None,
    ) -> Any:
        """Build and send a message via stream or socket; return the message."""
        given = msg_or_type.__class__
        if (
            type(stream) not in plain_streams()
            or buffers
            or not (given is str or (given is dict and not msg_or_type.get("buffers")))
            or not is_plain(self._trait_values)
        ):
            stock: Any = super()
            return stock.send(
                stream, msg_or_type, content, parent, ident, buffers, track, header, metadata
            )
        if given is str:
            message = self.msg(msg_or_type, content, parent, header, metadata)
        else:
            message = msg_or_type
        frames = self.serialize(message, ident)
        copy = max(map(len, frames)) < self._trait_values["copy_threshold"]
        stream.send_multipart(frames, copy=copy)
        message["tracker"] = done()
        return message


HOOK = Hook(
    name="send",
    needs=[
        Need(
            f"{SESSION}.send",
            "self, stream, msg_or_type, content, parent, ident, buffers, track, header, metadata",
            "msg check_pid pid adapt_version serialize copy_threshold send_multipart DONE debug",
        ),
        Need(f"{SESSION}.msg", "self, msg_type, content, parent, header, metadata"),
        Need(f"{SESSION}.serialize", "self, msg, ident"),
        Need("zmq.eventloop.zmqstream:ZMQStream.send_multipart", None),
        Need("ipykernel.iostream:BackgroundSocket.send_multipart", "self, *args, **kwargs"),
        Need("traitlets:TraitType.get", "self, obj, cls", "_trait_values name"),
    ],
    mixins={SESSION: SendPlainly},
)
