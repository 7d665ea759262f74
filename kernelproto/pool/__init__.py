"""Kernels for many users: each has one of their own, there are never too many, none for ever."""

from kernelproto.pool.member import PooledKernel
from kernelproto.pool.pool import KernelPool, PoolConnection

__all__ = ["KernelPool", "PoolConnection", "PooledKernel"]
