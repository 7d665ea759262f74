"""The dashboard as HTML. Pure.

Templates escape every value that is not ``Html`` already, because users, administrators and kernels
choose names, paths and reasons.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from string import Template
from typing import NamedTuple

from kernelproto.interfaces import User
from kernelproto.pool import KernelEnd, LostKernel, PooledKernel
from kernelproto.server.models import shown_name
from kernelproto.server.telemetry.usage import Usage

_UNKNOWN = "\N{EN DASH}"

# The first characters of an id tell a few kernels apart.
_SHORT_ID = 8

# A longer path loses the beginning.
_MOST_PATH_CHARACTERS = 120

# Kernels that died are shown for a day.
_MOST_LOST = 20
_LOST_SECONDS = 86_400

_JUST_NOW_SECONDS = 10

# The page warns for the last tenth of the time before the end, at most for five minutes.
_WARNED_PART = 0.1
_MOST_WARNED_SECONDS = 300

_SPANS = [(86_400, "day"), (3600, "h"), (60, "min"), (1, "s")]


class Html(str):
    """A text that is HTML already, so templates do not escape the text."""

    __slots__ = ()


class HtmlTemplate(Template):
    """HTML with the names of values, such as ``$user``."""

    def fill(self, **values: object) -> Html:
        """Return the HTML with all values; those that are not Html are escaped."""
        return Html(
            self.substitute(
                {
                    name: value if isinstance(value, Html) else html.escape(str(value))
                    for name, value in values.items()
                }
            )
        )


def read_file(name: str) -> bytes:
    """Return the contents of a file in this folder."""
    return files("kernelproto.server.dashboard").joinpath(name).read_bytes()


def _template(name: str) -> HtmlTemplate:
    return HtmlTemplate(read_file(name).decode().rstrip("\n"))


_PAGE = _template("page.html")
_TABLE = _template("table.html")
_ROW = _template("row.html")
_BUTTONS = _template("buttons.html")
_BADGE = Html(' <span class="badge">admin</span>')
_OWNER = HtmlTemplate(' data-owner="$user"')
_DEATH = HtmlTemplate('<small class="death">died: $death</small>')
_UNREACHABLE = HtmlTemplate('<small class="problem">$problem; it may still run</small>')
_ENDING = HtmlTemplate('<small class="ending">ends $when</small>')
_TIME = HtmlTemplate('<time datetime="$machine" title="$title">$ago</time>')
_DOCUMENT = HtmlTemplate('<small class="document">$path</small>')
_EMPTY = _template("empty.html")
_LOST = _template("lost.html")
_LOST_ROW = _template("lost_row.html")

# The page for users without a valid token.
LOGIN = read_file("login.html").decode()


class View(NamedTuple):
    """The facts on the page of one user.

    Args:
        user: the user.
        kernels: the user's kernels; for an admin, the kernels of all users.
        limit: the maximum number of these kernels.
        lost: kernels that died and were not restarted, latest first.
        documents: the paths of the kernels' documents, by user and kernel id.
        usage: the memory and processor time of the kernels, by process id, as far as known.
        now: the time, in UTC.
        here: the address of the page, as far as the server knows.
        version: the version of kernelproto.
    """

    user: User
    kernels: Sequence[PooledKernel]
    limit: int
    lost: Sequence[LostKernel]
    documents: Mapping[tuple[str, str], Sequence[str]]
    usage: Mapping[int, Usage]
    now: datetime
    here: str
    version: str


def render(view: View) -> str:
    """Return the page."""
    admin = view.user.admin
    title = "All kernels" if admin else "Your kernels"
    if view.kernels:
        # An admin's own kernels come first.
        kernels = sorted(view.kernels, key=lambda kernel: kernel.user != view.user.name)
        rows = _lines(_row(kernel, view) for kernel in kernels)
        body = _TABLE.fill(title=title, rows=rows)
    else:
        nothing = "There are no kernels" if admin else "You have no kernel"
        body = _EMPTY.fill(nothing=nothing, here=view.here)
    return _PAGE.fill(
        title=title,
        user=view.user.name,
        badge=_BADGE if admin else "",
        summary=_summary(view),
        kernels=body,
        lost=_lost(view),
        version=view.version,
    )


def ago(seconds: float) -> str:
    """Return a past time in words."""
    if seconds < _JUST_NOW_SECONDS:
        return "just now"
    return f"{_duration(seconds)} ago"


def amount(size: int) -> str:
    """Return a size in words."""
    megabytes = size / 1_000_000
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 999.5 else f"{megabytes:.0f} MB"


def _duration(seconds: float) -> str:
    length, unit = next((span, unit) for span, unit in _SPANS if seconds >= span)
    count = int(seconds // length)
    plural = "s" if unit == "day" and count > 1 else ""
    return f"{count} {unit}{plural}"


def _summary(view: View) -> str:
    count = len(view.kernels)
    parts = [f"{count} of {view.limit} kernel{'' if view.limit == 1 else 's'}"]
    if busy := sum(kernel.state == "busy" for kernel in view.kernels):
        parts.append(f"{busy} busy")
    usages = [usage for kernel in view.kernels if (usage := _usage(kernel, view))]
    if usages:
        parts.append(amount(sum(usage.memory for usage in usages)))
    return " \N{MIDDLE DOT} ".join(parts)


def _row(kernel: PooledKernel, view: View) -> Html:
    usage = _usage(kernel, view)
    active_at = kernel.last_activity.astimezone(UTC)
    short = kernel.kernel_id[:_SHORT_ID]
    cpu = None if usage is None else usage.cpu
    return _ROW.fill(
        id=kernel.kernel_id,
        short=short,
        name=shown_name(kernel.kernel_type),
        document=_document(view.documents.get((kernel.user, kernel.kernel_id), ())),
        state=kernel.state,
        death="" if kernel.last_death is None else _DEATH.fill(death=kernel.last_death),
        problem="" if kernel.unreachable is None else _UNREACHABLE.fill(problem=kernel.unreachable),
        ending=_ending(kernel.end, view.now),
        user=kernel.user,
        owner=_OWNER.fill(user=kernel.user) if kernel.user != view.user.name else "",
        connections=kernel.connections,
        activity=_time(active_at, view),
        active_at=int(active_at.timestamp()),
        memory=_UNKNOWN if usage is None else amount(usage.memory),
        memory_bytes=-1 if usage is None else usage.memory,
        cpu=_UNKNOWN if cpu is None else f"{cpu:.0%}",
        cpu_share=-1 if cpu is None else round(cpu, 4),
        actions=_BUTTONS.fill(short=short),
    )


def _ending(end: KernelEnd | None, now: datetime) -> str:
    """Return the warning before a kernel ends; "" while there is time."""
    if end is None:
        return ""
    left = (end.at - now).total_seconds()
    if left > min(end.limit * _WARNED_PART, _MOST_WARNED_SECONDS):
        return ""
    when = f"in {_duration(left)}" if left >= 1 else "now"
    condition = "unless used" if end.reason == "culled" else "(maximum age)"
    return _ENDING.fill(when=f"{when} {condition}")


def _document(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    path = paths[0]
    if len(path) > _MOST_PATH_CHARACTERS:
        path = f"\N{HORIZONTAL ELLIPSIS}{path[-_MOST_PATH_CHARACTERS:]}"
    if len(paths) > 1:
        path += f" and {len(paths) - 1} more"
    return _DOCUMENT.fill(path=path)


def _lost(view: View) -> str:
    lately = [
        lost
        for lost in view.lost[:_MOST_LOST]
        if (view.now - lost.died_at).total_seconds() < _LOST_SECONDS
    ]
    rows = [
        _LOST_ROW.fill(
            name=shown_name(lost.kernel_type),
            id=lost.kernel_id,
            short=lost.kernel_id[:_SHORT_ID],
            owner=f" of {lost.user}" if lost.user != view.user.name else "",
            death=lost.death,
            when=_time(lost.died_at, view),
        )
        for lost in lately
    ]
    return _LOST.fill(rows=_lines(rows)) if rows else ""


def _time(moment: datetime, view: View) -> Html:
    return _TIME.fill(
        machine=moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        title=moment.strftime("%Y-%m-%d %H:%M:%S UTC"),
        ago=ago((view.now - moment).total_seconds()),
    )


def _lines(rows: Iterable[Html]) -> Html:
    return Html("\n".join(rows))


def _usage(kernel: PooledKernel, view: View) -> Usage | None:
    return None if kernel.pid is None else view.usage.get(kernel.pid)
