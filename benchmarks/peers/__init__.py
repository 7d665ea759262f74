"""The contenders. All have the methods of ``benchmarks.peers.peer``."""

from benchmarks.peers.jupyter import JupyterClient, JupyterClientBlocking
from benchmarks.peers.jupyverse import Jupyverse, ZmqAnyio
from benchmarks.peers.ours import Kernelproto, KernelprotoBlocking
from benchmarks.peers.peer import Client, Launched, Launcher, Peer, Streamed
from benchmarks.peers.plain import Plain

__all__ = [
    "ASYNCIO",
    "BLOCKING",
    "JUPYTER",
    "JUPYTER_BLOCKING",
    "OURS",
    "PLAIN",
    "PLAIN_DECODING",
    "TRIO",
    "UVLOOP",
    "Client",
    "Jupyverse",
    "Kernelproto",
    "Launched",
    "Launcher",
    "Peer",
    "Streamed",
    "ZmqAnyio",
]

ASYNCIO = Kernelproto("asyncio")
UVLOOP = Kernelproto("uvloop")
TRIO = Kernelproto("trio")
BLOCKING = KernelprotoBlocking()
JUPYTER = JupyterClient()
JUPYTER_BLOCKING = JupyterClientBlocking()
PLAIN = Plain()
PLAIN_DECODING = Plain(decoding=True)

OURS = (ASYNCIO, UVLOOP, TRIO)
