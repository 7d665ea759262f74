"""The registry: which kernels outlive their programs, whose they are, and which node owns them."""

from kernelproto.registry.interface import (
    RegisteredKernel,
    RegisteredNode,
    RegisteredSession,
    Registry,
)
from kernelproto.registry.sqlite import SQLiteRegistry

__all__ = [
    "RegisteredKernel",
    "RegisteredNode",
    "RegisteredSession",
    "Registry",
    "SQLiteRegistry",
]
