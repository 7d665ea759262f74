"""A corpus of public notebooks, executed with kernelproto, nbclient and papermill, and compared.

    python -m tests.integration.corpus fetch FOLDER
    python -m tests.integration.corpus compare FOLDER

``corpus.toml`` names the repositories, commits and notebooks; nothing of them is part of this
project. The environment needs papermill, nbclient and the packages that the notebooks import, which
``corpus.toml`` lists.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.request import urlopen

from tests.integration.notebooks.comparable import comparable

HERE = Path(__file__).parent
TOOLS = ["kernelproto", "nbclient", "nbclient again", "papermill"]
NOTEBOOK_SECONDS = 600


class Source(NamedTuple):
    """A notebook of the corpus, in the folder that ``fetch`` has written."""

    repository: str
    path: Path
    kernel: str

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}"


class Done(NamedTuple):
    """What one tool made of a notebook: the cells, or the error of a tool that refused it."""

    cells: list[Any]
    problem: str


def corpus() -> Any:
    """Return the contents of corpus.toml."""
    return tomllib.loads(HERE.joinpath("corpus.toml").read_text("utf-8"))


def sources(contains: str) -> Iterator[Source]:
    """Yield the notebooks of the corpus whose names contain a text."""
    for repository in corpus()["repository"]:
        for path in repository["notebooks"]:
            source = Source(repository["name"], Path(path), repository.get("kernel", "python3"))
            if contains in str(source):
                yield source


def fetch(folder: Path, address: str) -> None:
    """Download each repository at its commit into a folder."""
    for repository in corpus()["repository"]:
        name, commit = repository["name"], repository["commit"]
        target = folder / name
        if target.exists():
            continue
        print(f"{name} at {commit[:12]}")
        with urlopen(f"{address}/{name}/tar.gz/{commit}", timeout=120) as response:
            archive = io.BytesIO(response.read())
        with tarfile.open(fileobj=archive) as tar:
            for member in tar:
                _, _, member.name = member.name.partition("/")  # all files are in one folder
                if member.name:
                    tar.extract(member, target, filter="data")


def execute(tool: str, source: Source, folder: Path, target: Path) -> Done:
    """Execute a notebook in its own folder with one tool."""
    path = folder / source.repository / source.path
    program = [sys.executable, HERE / "execute.py", tool.split()[0], path.name, target]
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    try:
        process = subprocess.run(
            [*program, source.kernel],
            cwd=path.parent,
            env=environment,
            timeout=NOTEBOOK_SECONDS,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return Done([], f"not done after {NOTEBOOK_SECONDS} s")
    if process.returncode:
        return Done([], process.stderr.strip().rpartition("\n")[2][:300] or "no error message")
    return Done(comparable(json.loads(target.read_text("utf-8")))["cells"], "")


def differences(done: dict[str, Done]) -> Iterator[tuple[str, str]]:
    """Yield each difference from nbclient or papermill, with the tool, in one line.

    A cell whose outputs differ between two runs of nbclient differs by itself, and is left out.
    """
    ours, first, again = (done[tool] for tool in TOOLS[:3])
    for tool in ("nbclient", "papermill"):
        theirs = done[tool]
        if bool(ours.problem) != bool(theirs.problem):
            yield (
                tool,
                f"ours: {ours.problem or 'executed'}; theirs: {theirs.problem or 'executed'}",
            )
        if ours.problem or theirs.problem or first.problem or again.problem:
            continue
        for number, (our, their) in enumerate(zip(ours.cells, theirs.cells, strict=False), 1):
            if our["cell_type"] != "code" or visible(first.cells[number - 1]) != visible(
                again.cells[number - 1]
            ):
                continue
            if visible(our) != visible(their):
                yield tool, f"cell {number}: {first_difference(visible(our), visible(their))}"


def visible(cell: Any) -> Any:
    """Return what a reader of the notebook sees of the execution of a cell."""
    return [cell.get("execution_count"), *cell.get("outputs", [])]


def first_difference(ours: Any, theirs: Any) -> str:
    """Describe the first values that differ, in a few hundred characters."""
    for index in range(max(len(ours), len(theirs))):
        our, their = (values[index : index + 1] for values in (ours, theirs))
        if our != their:
            a, b = (json.dumps(value, sort_keys=True) for value in (our, their))
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(same - 60, 0)
            return f"ours {a[start : start + 160]} | theirs {b[start : start + 160]}"
    return ""


def compare(folder: Path, contains: str, jobs: int) -> int:
    """Execute all notebooks with all tools, print the differences, and return an exit status."""
    counts: Counter[str] = Counter()

    def judge(source: Source) -> None:
        with TemporaryDirectory() as results:
            done = {
                tool: execute(tool, source, folder, Path(results, f"{number}.json"))
                for number, tool in enumerate(TOOLS)
            }
        found = list(differences(done))
        verdict = "differs" if found else "refused by all" if done[TOOLS[0]].problem else "equal"
        counts[verdict] += 1
        lines = [f"{verdict}: {source}", *(f"    {tool}: {text}" for tool, text in found)]
        print("\n".join(lines), flush=True)

    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(judge, sources(contains)))
    print(", ".join(f"{number} {verdict}" for verdict, number in counts.most_common()))
    return 1 if counts["differs"] else 0


def main() -> int:
    """Run the command of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.corpus")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download the repositories into a folder")
    fetching.add_argument("folder", type=Path)
    fetching.add_argument("--address", default="https://codeload.github.com", help="from here")
    comparing = commands.add_parser("compare", help="execute and compare the notebooks")
    comparing.add_argument("folder", type=Path)
    comparing.add_argument("--contains", default="", help="only notebooks with this in their name")
    comparing.add_argument("--jobs", type=int, default=1, help="notebooks at the same time")
    options = parser.parse_args()
    if options.command == "fetch":
        fetch(options.folder, options.address)
        return 0
    return compare(options.folder, options.contains, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
