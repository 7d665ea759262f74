"""Which kernel providers the installed packages declare.

A scan of 85 packages takes 2 ms, and every launch without a finder of its own asks for one. So
the last scan is kept for as long as nothing on ``sys.path`` has changed.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_GROUP = "kernelproto.kernel_providers"

# A folder that has changed a moment ago may be in the midst of an installation, and what is
# written to a folder within it, or within one tick of the clock, does not change its time again.
_SETTLED_SECONDS = 2

_SearchPath = tuple[tuple[object, ...], ...]
_Found = tuple["EntryPoint", ...]

_last_scan: tuple[_SearchPath, _Found] | None = None


def declared_providers() -> tuple[EntryPoint, ...]:
    """Return the entry points of the group ``kernelproto.kernel_providers``, not loaded yet."""
    global _last_scan
    search_path, has_settled = _look_at_search_path()
    if _last_scan is not None and _last_scan[0] == search_path:
        return _last_scan[1]
    from importlib.metadata import entry_points  # which loads a parser for e-mails

    found = tuple(entry_points(group=_GROUP))
    _last_scan = (search_path, found) if has_settled else None
    return found


def _look_at_search_path() -> tuple[_SearchPath, bool]:
    """Return what changes when a package is installed or removed, and whether it may be kept."""
    folders: list[tuple[object, ...]] = [tuple(map(id, sys.meta_path))]
    newest = 0.0
    for folder in sys.path:
        try:
            status = os.stat(folder or os.curdir)
        except OSError:
            folders.append((folder,))
        else:
            folders.append((folder, status.st_dev, status.st_ino, status.st_mtime_ns))
            newest = max(newest, status.st_mtime)
    return tuple(folders), time.time() - newest > _SETTLED_SECONDS
