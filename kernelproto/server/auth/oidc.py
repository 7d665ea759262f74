"""OidcToken: authenticate users by tokens that an OpenID Connect provider, the issuer, has signed.

A token is a JWT: an access token (RFC 9068) or an ID token. The server fetches the issuer's public
keys and verifies tokens with them, and sends no token to the issuer. Needs the extra ``oidc``.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import jwt
import msgspec

from kernelproto.exceptions import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import User, UserRequest
from kernelproto.server.access_settings import is_loopback
from kernelproto.server.auth.authenticators import token_of
from kernelproto.server.auth.http_get import FAILURES, get, read_address, words

logger = logging.getLogger(__name__)

_DISCOVERY = "/.well-known/openid-configuration"

# Signatures that need the issuer's private key. An algorithm with a shared secret would accept a
# token that is signed with the public key.
_KEY_TYPES = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}

# Other JWTs of an issuer, such as logout tokens, do not authenticate a user.
_TOKEN_TYPES = (None, "jwt", "at+jwt", "application/at+jwt")

# Longer than tokens with hundreds of groups.
_MAX_CHARACTERS = 16_384
_MAX_NAME_CHARACTERS = 255
_MAX_KEYS = 100

# The seconds by which the clocks of the issuer and of this machine may differ.
_LEEWAY = 30

# Seconds: the age at which the keys are fetched again; the shortest time between two attempts, also
# for tokens with an unknown key; and the age at which old keys are no longer used.
_KEYS_SECONDS = 300.0
_PAUSE_SECONDS = 10.0
_STALE_SECONDS = 3600.0

_BAD_TOKEN = (jwt.PyJWTError, ValueError, TypeError, RecursionError)


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


class OidcToken:
    """Authenticate the users of an OpenID Connect provider by JWTs with the provider's signature.

    Even a revoked token is accepted until it expires, so let tokens expire after some minutes. The
    issuer's keys are fetched at the first token, at regular intervals, and when a token is signed
    with an unknown key.

    Args:
        issuer: the URL of the issuer, equal to the claim ``iss``: https, or http on this machine.
        audience: the claim ``aud`` of a token must have at least one of these values.
        name_claim: the claim with the user's name. Users must not be able to change this claim.
        admin_claim: the claim that identifies admins, such as a list of groups. Separate the names
            of nested claims with dots, as in ``realm_access.roles``.
        admin_values: the values of that claim that make a user an admin; ``"true"`` for a claim
            that is true.
        admins: the names of further admins.
        groups_claim: the claim with a list of the user's groups.
        timeout: seconds to wait for the issuer's keys.

    Raises:
        InvalidSettings: the issuer's URL is invalid, or the audience is empty.
    """

    def __init__(
        self,
        issuer: str,
        *,
        audience: Collection[str],
        name_claim: str = "sub",
        admin_claim: str = "groups",
        admin_values: Collection[str] = (),
        admins: Collection[str] = (),
        groups_claim: str = "groups",
        timeout: float = 5.0,
    ) -> None:
        try:
            self._discovery = read_address(_safe(issuer.rstrip("/") + _DISCOVERY))
        except ValueError as error:
            raise InvalidSettings(
                f"oidc_issuer: {issuer!r} is not a valid URL of an issuer, such as "
                f"https://login.example.org: {error}"
            ) from None
        if not audience or isinstance(audience, str):
            raise InvalidSettings(
                "oidc_audience: list at least one value; without it, tokens for other services "
                "would be accepted"
            )
        self._issuer = issuer
        self._audience = list(audience)
        self._name_claim = name_claim
        self._admin_claim = admin_claim
        self._admin_values = frozenset(admin_values)
        self._admins = frozenset(admins)
        self._groups_claim = groups_claim
        self._timeout = timeout
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._reachable = True
        self._lock = anyio.Lock()

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user named in a token that the issuer has signed for this server.

        Raises:
            AuthenticatorUnavailable: the keys cannot be fetched from the issuer.
        """
        token = token_of(request)
        if not token or len(token) > _MAX_CHARACTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
        except _BAD_TOKEN:
            return None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in _KEY_TYPES or not isinstance(kid, str | None) or not _has_type(header):
            return None
        key = await self._key(kid)
        if key is None or key.key_type != _KEY_TYPES[algorithm]:
            return None
        try:
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud"]},
            )
        except _BAD_TOKEN:
            return None
        return self._user(claims)

    def _user(self, claims: Mapping[str, Any]) -> User | None:
        name = _claim(claims, self._name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARACTERS:
            return None
        roles = _strings(claims, self._admin_claim)
        return User(
            name,
            admin=name in self._admins or not self._admin_values.isdisjoint(roles),
            groups=_strings(claims, self._groups_claim),
        )

    async def _key(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key with an id; without an id, the only key of the issuer."""
        if not self._is_known(kid) or not self._is_younger(_KEYS_SECONDS):
            # A token with a known key need not wait while another task refreshes the keys.
            if not (self._is_known(kid) and self._lock.locked()):
                async with self._lock:
                    if not self._is_known(kid) or not self._is_younger(_KEYS_SECONDS):
                        await self._refresh()
            knows = self._is_known(kid) or self._reachable
            if not knows or not self._is_younger(_STALE_SECONDS):
                raise AuthenticatorUnavailable(
                    "the issuer of the tokens does not respond: try again later"
                )
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _is_known(self, kid: str | None) -> bool:
        return kid in self._keys or (kid is None and len(self._keys) == 1)

    def _is_younger(self, seconds: float) -> bool:
        return anyio.current_time() - self._fetched_at < seconds

    async def _refresh(self) -> None:
        if anyio.current_time() - self._tried_at < _PAUSE_SECONDS:
            return
        self._tried_at = anyio.current_time()
        try:
            with anyio.fail_after(self._timeout):
                self._keys = await self._fetch()
        except FAILURES as error:
            if self._reachable:  # log the first failure only
                logger.warning("cannot fetch the keys of %s: %s", self._issuer, words(error))
            self._reachable = False
            return
        if not self._reachable:
            logger.info("fetched the keys of %s again", self._issuer)
        self._reachable = True
        self._fetched_at = anyio.current_time()

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        status, body = await get(self._discovery)
        if status != 200:
            raise ValueError(f"unexpected status {status} from {self._discovery.url}")
        discovery = msgspec.json.decode(body, type=_Discovery)
        if discovery.issuer != self._issuer:
            raise ValueError(f"its configuration names another issuer: {discovery.issuer!r}")
        status, body = await get(read_address(_safe(discovery.jwks_uri)))
        if status != 200:
            raise ValueError(f"unexpected status {status} from {discovery.jwks_uri}")
        found: dict[str | None, jwt.PyJWK] = {}
        for description in msgspec.json.decode(body, type=_KeySet).keys[:_MAX_KEYS]:
            key = _read_key(description)
            if key is not None:
                found[key.key_id] = key
        return found


def _read_key(description: dict[str, Any]) -> jwt.PyJWK | None:
    """Return a public key for signatures; None for a key of another kind, or an invalid one."""
    if description.get("use", "sig") != "sig" or "d" in description:
        return None
    if description.get("kty") not in _KEY_TYPES.values():
        return None
    if not isinstance(description.get("kid"), str | None):
        return None
    try:
        return jwt.PyJWK(description)
    except _BAD_TOKEN:
        return None


def _safe(url: str) -> str:
    """Return the URL if responses cannot be tampered with: https, or a loopback address.

    Raises:
        ValueError: the URL is another one.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("it must begin with https://")
    return url


def _has_type(header: Mapping[str, Any]) -> bool:
    kind = header.get("typ")
    return (kind.lower() if isinstance(kind, str) else kind) in _TOKEN_TYPES


def _claim(claims: Mapping[str, Any], name: str) -> object:
    """Return a claim; dots in the name select a nested claim."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = cast("Mapping[str, object]", found).get(part) if isinstance(found, dict) else None
    return found


def _strings(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the strings in a claim, which may be a list or one string; true counts as "true"."""
    found = _claim(claims, name)
    values = cast("list[object]", found) if isinstance(found, list) else [found]
    strings = ("true" if value is True else value for value in values)
    return frozenset(value for value in strings if isinstance(value, str))
