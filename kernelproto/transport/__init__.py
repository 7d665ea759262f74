"""The channels to a kernel over ZeroMQ: the only package that knows zmq."""

from kernelproto.transport.channels import open_channels
from kernelproto.transport.memory import MemoryTransport

__all__ = ["MemoryTransport", "open_channels"]
