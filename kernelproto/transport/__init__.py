"""The channels to a kernel over ZeroMQ: the only package that knows zmq."""

from kernelproto.transport.channels import open_channels

__all__ = ["open_channels"]
