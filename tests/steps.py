"""Steps: the bytecode instructions of a block; their number is the same in each run."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from types import CodeType, FrameType
from typing import Any

# Debuggers, coverage, profilers and optimizers have lower or higher numbers.
_TOOL = 4


class Steps:
    """Instructions that were counted.

    Attributes:
        count: their number.
    """

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def counted(within: str = "") -> Generator[Steps]:
    """Count the instructions of the block.

    Args:
        within: the beginning of the paths of the files whose code is counted.
    """
    steps = Steps()
    # Since Python 3.12 a trace function misses instructions of code that runs for the first time.
    has_monitoring = sys.version_info >= (3, 12)
    counting: Callable[[Steps, str], AbstractContextManager[None]]
    counting = _monitored if has_monitoring else _traced
    gc.collect()
    gc.disable()  # a collection may run finalizers
    try:
        with counting(steps, within):
            yield steps
    finally:
        gc.enable()


def count_steps(work: Callable[[], object]) -> int:
    """Return the number of instructions of *work*."""
    with counted() as steps:
        work()
    return steps.count


@contextmanager
def _monitored(steps: Steps, within: str) -> Generator[None]:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    event = monitoring.events.INSTRUCTION

    def note(code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(within):
            return monitoring.DISABLE
        steps.count += 1
        return None

    monitoring.use_tool_id(_TOOL, "steps")
    monitoring.register_callback(_TOOL, event, note)
    monitoring.restart_events()
    monitoring.set_events(_TOOL, event)
    try:
        yield
    finally:
        monitoring.set_events(_TOOL, monitoring.events.NO_EVENTS)
        monitoring.register_callback(_TOOL, event, None)
        monitoring.free_tool_id(_TOOL)


@contextmanager
def _traced(steps: Steps, within: str) -> Generator[None]:
    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(within):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        steps.count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
