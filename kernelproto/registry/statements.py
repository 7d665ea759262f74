"""The statements with which SQLiteRegistry reads and changes its tables. Pure.

All times are the store's, in seconds since the epoch with fractions.
"""

from __future__ import annotations

_NOW = "((julianday('now') - 2440587.5) * 86400.0)"

ADD = f"""
insert into kernel (
    id, owner, name, kernel_type, start, added_at, used_at, node, fence, held_until
) values (?, ?, ?, ?, ?, {_NOW}, {_NOW}, ?, 1, {_NOW} + ?)
on conflict do nothing returning fence
"""
CLAIM = f"""
update kernel set node = ?, fence = fence + 1, held_until = {_NOW} + ?
where id = ? and (held_until <= {_NOW} or node = ?) returning fence
"""
USE = f"update kernel set used_at = max(used_at, {_NOW} - ?) where id = ? and node = ?"
RENEW = f"update kernel set held_until = {_NOW} + ? where node = ? returning id, fence"
SEE = f"""
insert into node values (?, {_NOW}) on conflict do update set seen_at = excluded.seen_at
"""
NODES = f"select name, max(0, {_NOW} - seen_at) from node order by name"
SET_HANDLE = """
update kernel set handle = ?, restarting = 0 where id = ? and fence = ? returning id
"""
BEGIN_RESTART = "update kernel set restarting = 1 where id = ? and fence = ? returning id"
RELEASE = "update kernel set node = '', held_until = 0 where id = ? and fence = ? returning id"
REMOVE = "delete from kernel where id = ? and fence = ? returning id"
LIST = f"""
select id, owner, name, kernel_type, handle, max(0, {_NOW} - added_at), max(0, {_NOW} - used_at),
    node, fence, max(0, held_until - {_NOW}), start, note, restarting
from kernel where :owner is null or owner = :owner order by added_at, id
"""
SET_NOTE = "update kernel set note = ? where id = ? and node = ?"
SET_SESSION = """
insert into session select ?, ?, ?, ?, ?, id from kernel where id = ? and owner = ?
on conflict do update set path = excluded.path, name = excluded.name, type = excluded.type,
    kernel_id = excluded.kernel_id where owner = excluded.owner
returning id
"""
REMOVE_SESSION = "delete from session where owner = ? and id = ? returning id"
SESSIONS = """
select id, owner, path, name, type, kernel_id
from session where :owner is null or owner = :owner order by rowid
"""
