"""The questions, in the order in which they are asked; one module for each kind."""

from collections.abc import Sequence

from benchmarks.question import Question
from benchmarks.questions import (
    blocked,
    codec,
    fifty,
    flood,
    growth,
    idle,
    import_time,
    large,
    memory,
    notebook,
    pipelined,
    pool,
    round_trip,
    scaling,
    shutdown,
    sigkill,
    start,
    synthetic,
    twenty,
    websocket,
)

QUESTIONS: Sequence[Question] = [
    *synthetic.QUESTIONS,
    *codec.QUESTIONS,
    *growth.QUESTIONS,
    *round_trip.QUESTIONS,
    *flood.QUESTIONS,
    *large.QUESTIONS,
    *pipelined.QUESTIONS,
    *fifty.QUESTIONS,
    *scaling.QUESTIONS,
    *pool.QUESTIONS,
    *start.QUESTIONS,
    *twenty.QUESTIONS,
    *websocket.QUESTIONS,
    *shutdown.QUESTIONS,
    *notebook.QUESTIONS,
    *sigkill.QUESTIONS,
    *blocked.QUESTIONS,
    *import_time.QUESTIONS,
    *memory.QUESTIONS,
    *idle.QUESTIONS,
]
