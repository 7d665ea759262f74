"""The channels to a kernel over ZeroMQ; no other package imports zmq."""

from kernelproto.transport.channels import open_channels

__all__ = ["open_channels"]
