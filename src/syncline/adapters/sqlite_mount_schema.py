"""The format of the mount state in SQLite: its tables and its versions.

`entries` has one row for each entry, with base in it. Where local or remote is exactly as base, the
row says so (`here`, `there`); what differs stands in `differing`. No place is unique: base need not
be a tree, and within a session two entries may stand at one place.
"""

from __future__ import annotations

from syncline.adapters.sqlite_files import SqliteFormat
from syncline.adapters.sqlite_making import Migration
from syncline.ports.mount_state import ObstacleReason

APPLICATION_ID = 0x53594E4D
"""`SYNM` in the header of the file, for `file` and for us."""

OLDEST_READABLE = 1
NEWEST_READABLE = 1
WRITTEN = 1

_STATE = """
      parent BLOB CHECK (length(parent) = 16),
      name BLOB CHECK (length(name) BETWEEN 1 AND 255),
      kind INTEGER CHECK (kind BETWEEN 1 AND 3),
      mode INTEGER,
      mtime_ns INTEGER,
      size INTEGER,
      digest BLOB,
      manifest BLOB,
      target BLOB"""

_TABLES = (
    """
    CREATE TABLE facts (
      key INTEGER PRIMARY KEY CHECK (key = 1),
      replica BLOB NOT NULL CHECK (length(replica) = 16),
      volume BLOB CHECK (length(volume) = 16),
      root_marker BLOB,
      root_inode INTEGER,
      root_filesystem BLOB,
      revision INTEGER,
      commit_id BLOB CHECK (length(commit_id) = 32),
      table_digest BLOB NOT NULL CHECK (length(table_digest) = 32),
      consent TEXT NOT NULL,
      base_count INTEGER NOT NULL DEFAULT 0 CHECK (base_count >= 0),
      dirty_count INTEGER NOT NULL DEFAULT 0 CHECK (dirty_count >= 0)
    ) STRICT
    """,
    f"""
    CREATE TABLE entries (
      id BLOB PRIMARY KEY CHECK (length(id) = 16),
      is_dirty INTEGER NOT NULL CHECK (is_dirty IN (0, 1)),
      {_STATE.strip()},
      here INTEGER NOT NULL CHECK (here BETWEEN 0 AND 2),
      inode INTEGER,
      fingerprint BLOB,
      there INTEGER NOT NULL CHECK (there BETWEEN 0 AND 3),
      revision INTEGER,
      author BLOB,
      is_confirmed INTEGER NOT NULL CHECK (is_confirmed IN (0, 1))
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX based ON entries (parent, name, here) WHERE parent IS NOT NULL",
    "CREATE INDEX dirty ON entries (id) WHERE is_dirty = 1",
    "CREATE INDEX inodes ON entries (inode) WHERE inode IS NOT NULL",
    f"""
    CREATE TABLE differing (
      id BLOB NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
      side INTEGER NOT NULL CHECK (side IN (1, 2)),
      {_STATE.strip()},
      is_live INTEGER NOT NULL CHECK (is_live IN (0, 1)),
      PRIMARY KEY (id, side)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX placed ON differing (parent, name, side) WHERE is_live = 1",
    """
    CREATE TABLE held (
      id BLOB PRIMARY KEY CHECK (length(id) = 16),
      is_ignored INTEGER NOT NULL CHECK (is_ignored IN (0, 1)),
      detail BLOB NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX unread ON held (id) WHERE is_ignored = 0",
    """
    CREATE TABLE obstacles (
      parent BLOB NOT NULL CHECK (length(parent) = 16),
      name BLOB NOT NULL,
      reason TEXT NOT NULL,
      detail BLOB NOT NULL,
      PRIMARY KEY (parent, name)
    ) STRICT, WITHOUT ROWID
    """,
    f"""
    CREATE INDEX not_ignored ON obstacles (parent, name)
    WHERE reason <> '{ObstacleReason.IGNORED.value}'
    """,
    """
    CREATE TABLE sent (
      number INTEGER PRIMARY KEY CHECK (number > 0),
      op BLOB NOT NULL UNIQUE CHECK (length(op) = 16)
    ) STRICT
    """,
    f"""
    CREATE TABLE noted (
      number INTEGER NOT NULL,
      id BLOB NOT NULL CHECK (length(id) = 16),
      {_STATE.strip()},
      PRIMARY KEY (number, id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX noted_id ON noted (id)",
    "CREATE INDEX noted_parent ON noted (parent) WHERE parent IS NOT NULL",
    f"""
    CREATE TABLE incoming (
      id BLOB PRIMARY KEY CHECK (length(id) = 16),
      revision INTEGER NOT NULL,
      {_STATE.strip()},
      is_live INTEGER NOT NULL CHECK (is_live IN (0, 1))
    ) STRICT, WITHOUT ROWID
    """,
    f"PRAGMA application_id = {APPLICATION_ID}",
)

MIGRATIONS: tuple[Migration, ...] = ((1, _TABLES),)

FORMAT = SqliteFormat(
    name="the mount's state",
    code="mount_state",
    where="local",
    remedy="nothing in the folder is lost: move this file and its '-wal' away, and the next mount"
    " merges the folder with the volume without a base, which deletes nothing",
    application_id=APPLICATION_ID,
    oldest=OLDEST_READABLE,
    newest=NEWEST_READABLE,
    migrations=MIGRATIONS,
)
