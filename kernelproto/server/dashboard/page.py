"""The dashboard as HTML: what is said about each kernel, and how.

Every value is escaped before it is put into a template: users and kernel types have the names that
somebody has given them.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from string import Template
from typing import NamedTuple

from kernelproto.interfaces import User
from kernelproto.pool import PooledKernel
from kernelproto.server.models import shown_name
from kernelproto.server.usage import Usage

_UNKNOWN = "\N{EN DASH}"

# As many characters of an id as tell a few kernels apart.
_SHORT_ID = 8

_JUST_NOW_SECONDS = 10

_SPANS = [(86_400, "day"), (3600, "h"), (60, "min"), (1, "s")]


def read_file(name: str) -> bytes:
    """Return one of the files that are here beside the modules."""
    return files("kernelproto.server.dashboard").joinpath(name).read_bytes()


def _template(name: str) -> Template:
    return Template(read_file(name).decode().rstrip("\n"))


_PAGE = _template("page.html")
_TABLE = _template("table.html")
_ROW = _template("row.html")
_BUTTONS = _template("buttons.html")
_DEATH = Template('<small class="death">has died: $death</small>')
_EMPTY = _template("empty.html")

# What is shown to those who are not let in.
DOOR = read_file("door.html").decode()


class View(NamedTuple):
    """What one user is shown.

    Args:
        user: who looks.
        kernels: an admin's are everybody's.
        usage: what the kernels' processes use, as far as it is known, by their numbers.
        now: when that is, in UTC.
        here: the address of the page, as far as the server knows.
        version: of kernelproto.
    """

    user: User
    kernels: Sequence[PooledKernel]
    usage: Mapping[int, Usage]
    now: datetime
    here: str
    version: str


def render(view: View) -> str:
    """Return the page."""
    admin = view.user.admin
    title = "All kernels" if admin else "Your kernels"
    if view.kernels:
        # An admin looks for their own first.
        kernels = sorted(view.kernels, key=lambda kernel: kernel.user != view.user.name)
        rows = "\n".join(_row(kernel, view) for kernel in kernels)
        body = _TABLE.substitute(title=_text(title), rows=rows)
    else:
        nothing = "There are no kernels" if admin else "You have no kernel"
        body = _EMPTY.substitute(nothing=_text(nothing), here=_text(view.here))
    return _PAGE.substitute(
        title=_text(title),
        user=_text(view.user.name),
        badge=' <span class="badge">admin</span>' if admin else "",
        summary=_text(_summary(view)),
        kernels=body,
        version=_text(view.version),
    )


def ago(seconds: float) -> str:
    """Return in words how long ago something was."""
    if seconds < _JUST_NOW_SECONDS:
        return "just now"
    length, unit = next((span, unit) for span, unit in _SPANS if seconds >= span)
    count = int(seconds // length)
    plural = "s" if unit == "day" and count > 1 else ""
    return f"{count} {unit}{plural} ago"


def amount(size: int) -> str:
    """Return a number of bytes in words."""
    megabytes = size / 1_000_000
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 999.5 else f"{megabytes:.0f} MB"


def _summary(view: View) -> str:
    count = len(view.kernels)
    parts = [f"{count} kernel{'' if count == 1 else 's'}"]
    if busy := sum(kernel.state == "busy" for kernel in view.kernels):
        parts.append(f"{busy} busy")
    usages = [usage for kernel in view.kernels if (usage := _usage(kernel, view))]
    if usages:
        parts.append(amount(sum(usage.memory for usage in usages)))
    return " \N{MIDDLE DOT} ".join(parts)


def _row(kernel: PooledKernel, view: View) -> str:
    usage = _usage(kernel, view)
    idle_seconds = (view.now - kernel.last_activity).total_seconds()
    active_at = kernel.last_activity.astimezone(UTC)
    short = _text(kernel.kernel_id[:_SHORT_ID])
    return _ROW.substitute(
        id=_text(kernel.kernel_id),
        short=short,
        name=_text(shown_name(kernel.kernel_type)),
        state=_text(kernel.state),
        death=""
        if kernel.last_death is None
        else _DEATH.substitute(death=_text(kernel.last_death)),
        user=_text(kernel.user),
        owner=f' data-owner="{_text(kernel.user)}"' if kernel.user != view.user.name else "",
        connections=kernel.connections,
        activity=active_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        activity_title=active_at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        ago=ago(idle_seconds),
        memory=_UNKNOWN if usage is None else amount(usage.memory),
        cpu=_UNKNOWN if usage is None or usage.cpu is None else f"{usage.cpu:.0%}",
        actions=_BUTTONS.substitute(short=short),
    )


def _usage(kernel: PooledKernel, view: View) -> Usage | None:
    return None if kernel.pid is None else view.usage.get(kernel.pid)


def _text(value: str) -> str:
    return html.escape(value)
