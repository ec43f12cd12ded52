"""The statements of the mount state in SQLite; every look-up goes by an index.

Where SQLite could choose a slower index once the tables have grown, the statement names the right
one.
"""

from __future__ import annotations

from syncline.ports.mount_state import ObstacleReason

ABSENT, AS_BASE, DIFFERS, TOMBSTONE = 0, 1, 2, 3
"""How local (`here`) and remote (`there`) of an entry are kept."""

LOCAL, REMOTE = 1, 2
"""The sides of a state in `differing`."""

INTENTS = 0
"""The number under which intents are noted; STOREs have greater ones."""

_STATE = "parent, name, kind, mode, mtime_ns, size, digest, manifest, target"
_NO_STATE = ", ".join(f"{column} = NULL" for column in _STATE.split(", "))
_ENTRY = f"id, is_dirty, {_STATE}, here, inode, fingerprint, there, revision, author, is_confirmed"


def _values(count: int) -> str:
    return f"VALUES ({', '.join('?' * count)})"


# -- facts ---------------------------------------------------------------------

_FACTS = (
    "replica, volume, root_marker, root_inode, root_filesystem, revision, commit_id, table_digest,"
    " consent"
)
FACTS = f"SELECT {_FACTS}, base_count, dirty_count FROM facts WHERE key = 1"
ADD_FACTS = f"INSERT INTO facts (key, {_FACTS}) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
SET_FACTS = f"UPDATE facts SET ({_FACTS}) = (?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE key = 1"
SET_COUNTS = "UPDATE facts SET base_count = ?, dirty_count = ? WHERE key = 1"

# -- the trees -----------------------------------------------------------------

ENTRY = f"SELECT {_ENTRY} FROM entries WHERE id = ?1"
DIFFERING = f"SELECT {_STATE} FROM differing WHERE id = ?1 AND side = ?2"

PUT_ENTRY = f"""
INSERT INTO entries ({_ENTRY}) {_values(18)}
ON CONFLICT (id) DO UPDATE SET {
    ", ".join(f"{column} = excluded.{column}" for column in _ENTRY.split(", ")[1:])
}
"""
DROP_ENTRY = "DELETE FROM entries WHERE id = ?"
PUT_DIFFERING = f"INSERT OR REPLACE INTO differing (id, side, {_STATE}, is_live) {_values(12)}"
DROP_DIFFERING = "DELETE FROM differing WHERE id = ? AND side = ?"

CHILD = f"""
SELECT id FROM entries INDEXED BY based WHERE parent = ?1 AND name = ?2 AND here = {AS_BASE}
UNION ALL
SELECT id FROM differing INDEXED BY placed
WHERE parent = ?1 AND name = ?2 AND side = {LOCAL} AND is_live = 1
"""

CHILDREN_AS_BASE = f"""
SELECT {_ENTRY} FROM entries INDEXED BY based WHERE parent = ?1 AND here = {AS_BASE}
"""
CHILDREN_DIFFERING = f"""
SELECT id FROM differing INDEXED BY placed WHERE parent = ?1 AND side = {LOCAL} AND is_live = 1
"""

WITH_INODE = "SELECT id FROM entries INDEXED BY inodes WHERE inode = ?1"

AT_PLACE = """
SELECT id FROM entries INDEXED BY based WHERE parent = ?1 AND name = ?2
UNION ALL
SELECT id FROM differing INDEXED BY placed WHERE parent = ?1 AND name = ?2 AND is_live = 1
"""
WITHIN = """
SELECT id FROM entries INDEXED BY based WHERE parent = ?1
UNION ALL
SELECT id FROM differing INDEXED BY placed WHERE parent = ?1 AND is_live = 1
"""

DIRTY = "SELECT id FROM entries INDEXED BY dirty WHERE is_dirty = 1 ORDER BY id"

REMOTE_IDS = f"""
SELECT id FROM entries WHERE id > ?1 AND there IN ({AS_BASE}, {DIFFERS}) ORDER BY id LIMIT ?2
"""

FORGET_ALL = tuple(
    f"DELETE FROM {table}"
    for table in ("differing", "entries", "held", "obstacles", "sent", "noted", "incoming")
)

FORGET_SERVER = (
    f"DELETE FROM differing WHERE side = {REMOTE}",
    f"DELETE FROM held WHERE id IN (SELECT id FROM entries WHERE here = {ABSENT})",
    f"DELETE FROM entries WHERE here = {ABSENT}",
    f"""
    INSERT INTO differing (id, side, {_STATE}, is_live)
    SELECT id, {LOCAL}, {_STATE}, 1 FROM entries WHERE here = {AS_BASE}
    """,
    f"""
    UPDATE entries SET is_dirty = 1, {_NO_STATE}, here = {DIFFERS}, there = {ABSENT},
      revision = NULL, author = NULL, is_confirmed = 0
    """,
    f"DELETE FROM noted WHERE number <> {INTENTS}",
    "DELETE FROM sent",
)
COUNT_ENTRIES = "SELECT count(*) FROM entries"

# -- exceptions ----------------------------------------------------------------

HELD = "SELECT id, is_ignored, detail FROM held ORDER BY id"
ANY_HELD = "SELECT 1 FROM held WHERE id > ?1 LIMIT 1"
HELD_OF = "SELECT is_ignored, detail FROM held WHERE id = ?1"
HELD_UNREAD = """
SELECT id, is_ignored, detail FROM held INDEXED BY unread WHERE is_ignored = 0 ORDER BY id
"""
PUT_HELD = "INSERT OR REPLACE INTO held (id, is_ignored, detail) VALUES (?, ?, ?)"
DROP_HELD = "DELETE FROM held WHERE id = ?"
RENAME_HELD = "UPDATE OR REPLACE held SET id = ?2 WHERE id = ?1"

ANY_OBSTACLE = "SELECT 1 FROM obstacles WHERE parent > ?1 LIMIT 1"
OBSTACLE = "SELECT reason, detail FROM obstacles WHERE parent = ?1 AND name = ?2"
OBSTACLES_IN = "SELECT parent, name, reason, detail FROM obstacles WHERE parent = ?1"
OBSTACLES_NOT_IGNORED = f"""
SELECT parent, name, reason, detail FROM obstacles INDEXED BY not_ignored
WHERE reason <> '{ObstacleReason.IGNORED.value}'
"""
PUT_OBSTACLE = "INSERT OR REPLACE INTO obstacles (parent, name, reason, detail) VALUES (?, ?, ?, ?)"
DROP_OBSTACLE = "DELETE FROM obstacles WHERE parent = ? AND name = ?"
RENAME_OBSTACLES = "UPDATE OR REPLACE obstacles SET parent = ?2 WHERE parent = ?1"

# -- notes ---------------------------------------------------------------------

SENT = "SELECT op FROM sent ORDER BY number"
SENT_NUMBER = "SELECT number FROM sent WHERE op = ?1"
ADD_SENT = "INSERT INTO sent (op) VALUES (?)"
DROP_SENT = "DELETE FROM sent WHERE number = ?"
NOTED = f"SELECT id, {_STATE} FROM noted WHERE number = ?1 ORDER BY id"
PUT_NOTED = f"INSERT OR REPLACE INTO noted (number, id, {_STATE}) {_values(11)}"
DROP_NOTED = "DELETE FROM noted WHERE number = ?"

RENAME_NOTED = (
    # What was noted of the new id itself is its own.
    "UPDATE OR IGNORE noted SET id = ?2 WHERE id = ?1",
    "DELETE FROM noted WHERE id = ?1 AND id <> ?2",
    "UPDATE noted SET parent = ?2 WHERE parent = ?1",
)

CLEAR_INCOMING = "DELETE FROM incoming"
PUT_INCOMING = f"INSERT OR REPLACE INTO incoming (id, revision, {_STATE}, is_live) {_values(12)}"
INCOMING_ROWS = 512
INCOMING = f"""
SELECT id, revision, {_STATE}, is_live FROM incoming WHERE id > ?1
ORDER BY id LIMIT {INCOMING_ROWS}
"""
IS_INCOMING = "SELECT 1 FROM incoming WHERE id = ?1"
