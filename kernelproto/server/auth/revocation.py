"""Access: notice that the access of a user was revoked.

A request is authenticated once. A WebSocket and a kernel live on, so the authenticator is asked
again at an interval, about the request that it has let in. An authenticator that cannot answer
revokes nothing: users keep their connections while a JupyterHub restarts.
"""

from __future__ import annotations

import anyio

from kernelproto.exceptions import AuthenticatorUnavailable
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server.auth.authenticators import token_of

# With the time that HubToken believes an answer, revoking takes effect within 5 seconds.
RECHECK_SECONDS = 1.5

# Users whose requests are remembered, and tokens of each.
_MOST_USERS = 10_000
_MOST_TOKENS = 8


class Access:
    """Ask an authenticator again about users whom it has let in.

    Args:
        authenticator: knows the users.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        # By user, and then by token: the latest request, the oldest first.
        self._requests: dict[str, dict[str | None, UserRequest]] = {}

    def note(self, user: User, request: UserRequest) -> None:
        """Remember a request that was let in, for ``wait_until_user_revoked``."""
        requests = self._requests.pop(user.name, {})
        token = token_of(request)
        requests.pop(token, None)
        requests[token] = request
        if len(requests) > _MOST_TOKENS:
            del requests[next(iter(requests))]
        self._requests[user.name] = requests
        if len(self._requests) > _MOST_USERS:
            del self._requests[next(iter(self._requests))]

    async def wait_until_revoked(self, user: User, request: UserRequest) -> None:
        """Return when a request that this user has made would be refused."""
        while True:
            await anyio.sleep(RECHECK_SECONDS)
            if await self._is_refused(user.name, request):
                return

    async def wait_until_user_revoked(self, user: User) -> None:
        """Return when every token that this user has used lately would be refused."""
        while True:
            await anyio.sleep(RECHECK_SECONDS)
            requests = self._requests.get(user.name)
            if requests is None:  # more users have come since than are remembered
                continue
            for token, request in list(requests.items()):
                if await self._is_refused(user.name, request) and requests.get(token) is request:
                    del requests[token]
            if not requests:  # this stays, for the other kernels of the user
                return

    async def _is_refused(self, name: str, request: UserRequest) -> bool:
        try:
            user = await self._authenticator.authenticate(request)
        except AuthenticatorUnavailable:
            return False
        return user is None or user.name != name
