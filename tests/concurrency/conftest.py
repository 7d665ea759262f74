"""The fixtures that start calls beside a test."""

from tests.client.conftest import _all_blocked, start

__all__ = ["_all_blocked", "start"]
