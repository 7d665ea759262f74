"""Kernels for many users: each has one of their own, there are never too many, none for ever."""

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.pool import KernelPool, PoolConnection
from kernelproto.pool.pooled_kernel import LostKernel, PooledKernel

__all__ = ["KernelPool", "LeaseLimits", "LostKernel", "PoolConnection", "PooledKernel"]
