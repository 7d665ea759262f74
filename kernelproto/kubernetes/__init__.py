"""Kernels in pods of Kubernetes, ``kubernetes/NAME``.

The pod of a kernel runs the program of the host (see ``kernelproto.host``), which listens on tcp
with TLS. It starts the kernel when the program that has made the pod asks for that, and keeps the
messages of the kernel while no program is connected.
"""

from kernelproto.kubernetes.failures import KubernetesError
from kernelproto.kubernetes.provider import KubernetesProvider
from kernelproto.kubernetes.settings import PodKernel

__all__ = ["KubernetesError", "KubernetesProvider", "PodKernel"]
