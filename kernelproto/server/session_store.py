"""SessionStore: the sessions of all users in the registry of the pool."""

from __future__ import annotations

import logging

from kernelproto.exceptions import RegistryError
from kernelproto.registry import RegisteredSession, Registry
from kernelproto.server.session_table import Session

logger = logging.getLogger(__name__)


class SessionStore:
    """Stores each change of a session, one statement each.

    If the registry cannot be written, this is logged, and the session ends with this server.

    Args:
        registry: the registry; None if the sessions end with this server anyway.
    """

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry

    async def load(self, user: str | None = None) -> list[tuple[str, Session]]:
        """Return the users and sessions of earlier and other servers, oldest first.

        Args:
            user: only sessions of this user; None means all users.

        Raises:
            RegistryError: the registry cannot be read.
        """
        if self._registry is None:
            return []
        return [
            (
                found.owner,
                Session(
                    id=found.session_id,
                    path=found.path,
                    name=found.name,
                    type=found.type,
                    kernel_id=found.kernel_id,
                ),
            )
            for found in await self._registry.sessions(owner=user)
        ]

    async def save(self, user: str, session: Session) -> None:
        """Store a new or changed session of a user."""
        if self._registry is not None:
            try:
                await self._registry.set_session(
                    RegisteredSession(
                        session_id=session.id,
                        owner=user,
                        path=session.path,
                        name=session.name,
                        type=session.type,
                        kernel_id=session.kernel_id,
                    )
                )
            except RegistryError as error:
                logger.warning("session %s is not stored: %s", session.id, error)

    async def remove(self, user: str, session: Session) -> None:
        """Remove a session of a user."""
        if self._registry is not None:
            try:
                await self._registry.remove_session(user, session.id)
            except RegistryError as error:
                logger.warning("session %s is still stored: %s", session.id, error)
