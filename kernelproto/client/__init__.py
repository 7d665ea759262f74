"""The client of a running kernel: requests, executions, comms and published messages."""

from kernelproto.client.client import KernelClient, open_client
from kernelproto.client.comms import Comm, Comms
from kernelproto.client.execution import Execution, ExecutionState
from kernelproto.client.observers import MessageStream
from kernelproto.client.questions import OnInput
from kernelproto.client.result import ExecutionResult
from kernelproto.wire.refusals import RefusedOutput

__all__ = [
    "Comm",
    "Comms",
    "Execution",
    "ExecutionResult",
    "ExecutionState",
    "KernelClient",
    "MessageStream",
    "OnInput",
    "RefusedOutput",
    "open_client",
]
