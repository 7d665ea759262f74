"""Watching over kernels: from launched to gone."""

from kernelproto.supervise.kernel import Kernel, open_kernel

__all__ = ["Kernel", "open_kernel"]
