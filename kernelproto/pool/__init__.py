"""KernelPool: one kernel for each user, with limits on their number, idle time and age."""

from kernelproto.pool.kept_kernel import RestoredKernel
from kernelproto.pool.launcher import WarmKernels
from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.pool import KernelPool, PoolConnection
from kernelproto.pool.pooled_kernel import KernelEnd, LostKernel, PooledKernel

__all__ = [
    "KernelEnd",
    "KernelPool",
    "LeaseLimits",
    "LostKernel",
    "PoolConnection",
    "PooledKernel",
    "RestoredKernel",
    "WarmKernels",
]
