"""Options of ``kernelproto notebook`` about the execution; ``app`` has the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AutosaveSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Save the notebook this often while a cell runs; 0 saves only after cells.",
    ),
]
Cwd = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="The working directory of the kernels; by default the folder of each notebook.",
    ),
]
ErrorBanner = Annotated[
    bool,
    typer.Option(
        "--error-banner",
        help="If a cell fails, mark it in the written notebook, with a link at the top.",
    ),
]
Existing = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Execute one notebook in a running kernel, by its id or connection file.",
    ),
]
ExitOk = Annotated[
    bool, typer.Option(help="End a notebook successfully if a cell calls sys.exit(0).")
]
FromCell = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Begin with cell N, as counted in error messages; earlier cells keep their outputs.",
    ),
]
KeepKernel = Annotated[
    bool,
    typer.Option("--keep-kernel", help="Leave the kernel running, and print its connection file."),
]
LogOutput = Annotated[
    bool,
    typer.Option(
        "--log-output",
        help="Print outputs on standard error as they arrive, each line with the notebook's name.",
    ),
]
PrepareOnly = Annotated[
    bool,
    typer.Option("--prepare-only", help="Write the parameters into the notebook; run nothing."),
]
StartTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="How long the start of a kernel may take.")
]
