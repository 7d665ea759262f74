"""The statements with which the registries read and change their tables, in two dialects. Pure.

All times are the store's, in seconds since the epoch with fractions.
"""

from __future__ import annotations

import re


class Statements:
    """The statements in the dialect of a store.

    Args:
        now: the expression for the time, the same for all of a statement.
        clock: the same, but after each wait of the statement for another transaction.
        greatest: the function that returns the greatest of its arguments.
        parameter: how the dialect writes a parameter; ``{}`` stands for the name.
        lock_limits: lets one transaction at a time check limits, until it ends; None if the store
            performs one transaction at a time anyway.
    """

    def __init__(
        self,
        *,
        now: str,
        clock: str,
        greatest: str,
        parameter: str,
        lock_limits: str | None = None,
    ) -> None:
        self.lock_limits = lock_limits
        self._now = now
        self._clock = clock
        self._greatest = greatest
        self._parameter = parameter

        self.add = self._in_dialect("""
            insert into kernel (
                id, owner, name, kernel_type, start, added_at, used_at, node, fence, held_until
            ) values (
                :id, :owner, :name, :kernel_type, :start, NOW, NOW, :node, 1, NOW + :seconds
            )
            on conflict do nothing returning fence
        """)
        self.count_all = "select count(*) from kernel"
        self.count = self._in_dialect("""
            select count(*), coalesce(sum(case when owner = :owner then 1 else 0 end), 0),
                coalesce(max(case when id = :id or (owner = :owner and name = :name) then 1 end), 0)
            from kernel
        """)
        self.claim = self._in_dialect("""
            update kernel set node = :node, fence = fence + 1, held_until = CLOCK + :seconds
            where id = :id and (held_until <= CLOCK or node in ('', :node)) returning fence
        """)
        self.use = self._in_dialect("""
            update kernel set used_at = GREATEST(used_at, NOW - :idle)
            where id = :id and node = :node
        """)
        self.renew = self._in_dialect("""
            update kernel set held_until = CLOCK + :seconds where node = :node returning id, fence
        """)
        self.see = self._in_dialect("""
            insert into node (name, seen_at) values (:node, NOW)
            on conflict (name) do update set seen_at = excluded.seen_at
        """)
        self.nodes = self._in_dialect("""
            select name, GREATEST(0, NOW - seen_at) from node order by name
        """)
        self.set_handle = self._in_dialect("""
            update kernel set handle = :handle, restarting = 0
            where id = :id and fence = :fence returning id
        """)
        self.begin_restart = self._in_dialect("""
            update kernel set restarting = 1 where id = :id and fence = :fence returning id
        """)
        self.release = self._in_dialect("""
            update kernel set node = '', held_until = NOW
            where id = :id and fence = :fence returning id
        """)
        self.remove = self._in_dialect("""
            delete from kernel where id = :id and fence = :fence returning id
        """)
        # The time of the last use counts as well: earlier versions stored no time of the release.
        self.remove_unheld = self._in_dialect("""
            delete from kernel where GREATEST(held_until, used_at) <= NOW - :seconds returning id
        """)
        self.kernels = self._in_dialect("""
            select id, owner, name, kernel_type, handle, GREATEST(0, NOW - added_at),
                GREATEST(0, NOW - used_at), node, fence,
                case when node = '' then 0 else GREATEST(0, held_until - NOW) end, start, note,
                restarting
            from kernel
            where (cast(:owner as text) is null or owner = :owner)
                and (cast(:id as text) is null or id = :id)
                and (:unheld = 0 or node = '' or held_until <= NOW)
            order by added_at, id
        """)
        self.set_note = self._in_dialect("""
            update kernel set note = :note where id = :id and node = :node
        """)
        self.set_session = self._in_dialect("""
            insert into session (id, owner, path, name, type, kernel_id)
            select :session_id, :owner, :path, :name, :type, id
            from kernel where id = :kernel_id and owner = :owner
            on conflict (id) do update set path = excluded.path, name = excluded.name,
                type = excluded.type, kernel_id = excluded.kernel_id
            where session.owner = excluded.owner
            returning id
        """)
        self.remove_session = self._in_dialect("""
            delete from session where owner = :owner and id = :id returning id
        """)
        self.make_secret = self._in_dialect("""
            insert into secret (name, value) values ('nodes', :value) on conflict do nothing
        """)
        self.secret = self._in_dialect("select value from secret where name = 'nodes'")
        self.sessions = self._in_dialect("""
            select id, owner, path, name, type, kernel_id
            from session where cast(:owner as text) is null or owner = :owner order by rowid
        """)

    def _in_dialect(self, statement: str) -> str:
        for word, text in (
            ("NOW", self._now),
            ("CLOCK", self._clock),
            ("GREATEST", self._greatest),
        ):
            statement = statement.replace(word, text)
        return re.sub(r":(\w+)", lambda found: self._parameter.format(found[1]), statement)


_JULIAN = "((julianday('now') - 2440587.5) * 86400.0)"
SQLITE = Statements(now=_JULIAN, clock=_JULIAN, greatest="max", parameter=":{}")

_EPOCH = "cast(extract(epoch from {}()) as double precision)"
POSTGRESQL = Statements(
    now=_EPOCH.format("statement_timestamp"),
    clock=_EPOCH.format("clock_timestamp"),
    greatest="greatest",
    parameter="%({})s",
    lock_limits="select pg_advisory_xact_lock(1263555154, hashtext(current_schema()))",
)
