"""Access: notice that the access of a user was revoked.

A WebSocket and a kernel outlive the request that started them. So the request is authenticated
again at an interval. While the authenticator is unavailable, nothing counts as revoked: users keep
their connections while a JupyterHub restarts.
"""

from __future__ import annotations

from collections import OrderedDict

import anyio

from kernelproto.exceptions import AuthenticatorUnavailable
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server.auth.authenticators import token_of

# With the cache of HubToken (3 s), a revocation takes effect within 5 seconds.
RECHECK_SECONDS = 1.5

# The users whose requests are remembered, and the tokens per user.
_MAX_USERS = 10_000
_MAX_TOKENS = 8


class Access:
    """Authenticate the requests of connected users again.

    Args:
        authenticator: authenticates the requests.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        # The latest request of each user and token, in the order of their arrival.
        self._requests: OrderedDict[str, dict[str | None, UserRequest]] = OrderedDict()

    def note(self, user: User, request: UserRequest) -> None:
        """Remember an accepted request, for ``wait_until_user_revoked``."""
        requests = self._requests.pop(user.name, {})
        token = token_of(request)
        requests.pop(token, None)
        requests[token] = request
        if len(requests) > _MAX_TOKENS:
            del requests[next(iter(requests))]
        self._requests[user.name] = requests
        if len(self._requests) > _MAX_USERS:
            self._requests.popitem(last=False)

    async def wait_until_revoked(self, user: User, request: UserRequest) -> None:
        """Return when a request of a user would be refused."""
        while True:
            await anyio.sleep(RECHECK_SECONDS)
            if await self._is_refused(user.name, request):
                return

    async def wait_until_user_revoked(self, user: User) -> None:
        """Return when all recent tokens of a user would be refused."""
        while True:
            await anyio.sleep(RECHECK_SECONDS)
            requests = self._requests.get(user.name)
            if requests is None:  # dropped, because too many other users came since
                continue
            for token, request in list(requests.items()):
                if await self._is_refused(user.name, request) and requests.get(token) is request:
                    del requests[token]
            if not requests:  # not removed: other kernels of the user may wait for this
                return

    async def _is_refused(self, name: str, request: UserRequest) -> bool:
        try:
            user = await self._authenticator.authenticate(request)
        except AuthenticatorUnavailable:
            return False
        return user is None or user.name != name
