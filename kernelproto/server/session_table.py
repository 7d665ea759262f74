"""SessionTable: the sessions of all users; a session assigns a kernel to a document. Pure.

A session ends with its kernel. The table asks for the kernel when a session is looked up, and
forgets a session without one. Each new session also examines two kernels in turn, so the table
forgets sessions without a returning user.

Every method takes constant time for any number of sessions and kernels, except for ``of_user``,
``forget_ended`` and ``documents``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple


@dataclass(slots=True, eq=False)
class Session:
    """A session.

    Attributes:
        id: the id.
        path: the path of the document.
        name: the name.
        type: the type.
        kernel_id: the id of the kernel.
    """

    id: str
    path: str
    name: str
    type: str
    kernel_id: str

    @property
    def size(self) -> int:
        """The size of all texts, in bytes."""
        return sum(len(text.encode()) for text in (self.path, self.name, self.type))


class Total(NamedTuple):
    """The sessions of a user.

    Attributes:
        number: their number.
        size: the size of their texts, in bytes.
    """

    number: int
    size: int


_Sessions = dict[str, Session]


@dataclass(slots=True)
class _OfUser:
    by_id: _Sessions = field(default_factory=_Sessions)
    by_path: dict[str, _Sessions] = field(default_factory=dict[str, _Sessions])
    by_kernel: dict[str, _Sessions] = field(default_factory=dict[str, _Sessions])
    size: int = 0


class SessionTable:
    """The sessions of all users.

    Args:
        has_kernel: returns whether a user has a kernel; the arguments are the user and the id.
    """

    def __init__(self, has_kernel: Callable[[str, str], bool]) -> None:
        self._has_kernel = has_kernel
        self._users: dict[str, _OfUser] = {}
        # The user and id of each kernel; the kernel that was examined last is the last one.
        self._examined: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def users(self) -> list[str]:
        """The users with sessions."""
        return list(self._users)

    def add(self, user: str, session: Session) -> None:
        """Add a session of a user."""
        for kernel in list(islice(self._examined, 2)):
            self._examined.move_to_end(kernel)
            self._forget_if_ended(*kernel)
        self._add(user, session)

    def find(self, user: str, session_id: str) -> Session | None:
        """Return a session of a user by id."""
        session = self._of(user).by_id.get(session_id)
        if session is None or self._forget_if_ended(user, session.kernel_id):
            return None
        return session

    def of_path(self, user: str, path: str) -> Session | None:
        """Return the oldest session of a user for a document."""
        for session in list(self._of(user).by_path.get(path, {}).values()):
            if not self._forget_if_ended(user, session.kernel_id):
                return session
        return None

    def of_user(self, user: str) -> list[Session]:
        """Return the sessions of a user, oldest first."""
        self.forget_ended(user)
        return list(self._of(user).by_id.values())

    def sharing(self, user: str, kernel_id: str) -> int:
        """Return the number of sessions with a kernel."""
        return len(self._of(user).by_kernel.get(kernel_id, ()))

    def total_without(self, user: str, session_id: str) -> Total:
        """Return the total of a user's other sessions, which may include ended ones."""
        of_user = self._of(user)
        session = of_user.by_id.get(session_id)
        if session is None:
            return Total(len(of_user.by_id), of_user.size)
        return Total(len(of_user.by_id) - 1, of_user.size - session.size)

    def rename(self, user: str, session: Session, *, path: str, name: str, type: str) -> None:
        """Change the document of a session, which the table may have forgotten meanwhile."""
        of_user = self._of(user)
        is_here = session.id in of_user.by_id
        if is_here:
            _discard(of_user.by_path, session.path, session)
            of_user.size -= session.size
        session.path, session.name, session.type = path, name, type
        if is_here:
            of_user.by_path.setdefault(path, {})[session.id] = session
            of_user.size += session.size

    def replace_kernel(self, user: str, session: Session, kernel_id: str) -> None:
        """Assign another kernel; add a session again that the table has forgotten meanwhile."""
        of_user = self._of(user)
        if session.id in of_user.by_id:
            self._leave_kernel(user, of_user, session)
            session.kernel_id = kernel_id
            self._join_kernel(user, of_user, session)
        else:
            session.kernel_id = kernel_id
            self._add(user, session)

    def remove(self, user: str, session: Session) -> None:
        """Remove a session."""
        of_user = self._users[user]
        del of_user.by_id[session.id]
        of_user.size -= session.size
        _discard(of_user.by_path, session.path, session)
        self._leave_kernel(user, of_user, session)
        if not of_user.by_id:
            del self._users[user]

    def forget_ended(self, user: str) -> None:
        """Remove the sessions of a user that have lost their kernel."""
        for kernel_id in list(self._of(user).by_kernel):
            self._forget_if_ended(user, kernel_id)

    def documents(self, user: str | None = None) -> dict[tuple[str, str], list[str]]:
        """Return the paths of documents by the user and the id of their kernel.

        Args:
            user: the user; None means all users.
        """
        return {
            (name, kernel_id): [session.path for session in sessions.values()]
            for name in (self._users if user is None else [user])
            for kernel_id, sessions in self._of(name).by_kernel.items()
        }

    def _of(self, user: str) -> _OfUser:
        return self._users.get(user) or _OfUser()

    def _add(self, user: str, session: Session) -> None:
        of_user = self._users.setdefault(user, _OfUser())
        of_user.by_id[session.id] = session
        of_user.by_path.setdefault(session.path, {})[session.id] = session
        of_user.size += session.size
        self._join_kernel(user, of_user, session)

    def _join_kernel(self, user: str, of_user: _OfUser, session: Session) -> None:
        of_user.by_kernel.setdefault(session.kernel_id, {})[session.id] = session
        self._examined[user, session.kernel_id] = None

    def _leave_kernel(self, user: str, of_user: _OfUser, session: Session) -> None:
        _discard(of_user.by_kernel, session.kernel_id, session)
        if session.kernel_id not in of_user.by_kernel:
            del self._examined[user, session.kernel_id]

    def _forget_if_ended(self, user: str, kernel_id: str) -> bool:
        """Remove the sessions of a kernel if it has ended; return whether it has ended."""
        if self._has_kernel(user, kernel_id):
            return False
        for session in list(self._of(user).by_kernel.get(kernel_id, {}).values()):
            self.remove(user, session)
        return True


def _discard(index: dict[str, _Sessions], key: str, session: Session) -> None:
    sessions = index[key]
    del sessions[session.id]
    if not sessions:
        del index[key]
