"""The statements of the SQLite metadata store; every one is a look-up by an index.

Numbered parameters: ?1 is always the volume's integer key. Where SQLite could choose a slower
index once the tables have grown, the statement names the right one.

Rows pile up below one id and below one place (a log that grew for a year), so nothing here walks
along versions: what must pass over them jumps from one id or name to the next.
"""

from __future__ import annotations

from syncline.core.entries import Kind

_ENTRY = (
    "e.id, e.revision, e.parent, e.name, e.kind, e.mode, e.mtime_ns, e.size, e.digest, e.manifest,"
    " e.target, e.is_live"
)
_IS_PLACED = "e.is_live = 1 AND e.superseded_by IS NULL"
_WAS_PLACED = "e.is_live = 1 AND e.superseded_by IS NOT NULL"

# -- volumes -------------------------------------------------------------------

VOLUMES = "SELECT id, name, oldest FROM volumes ORDER BY name"
VOLUME = "SELECT key, oldest FROM volumes WHERE id = ?1"
VOLUME_TAKEN = "SELECT 1 FROM volumes WHERE id = ?1 OR name = ?2"
ADD_VOLUME = "INSERT INTO volumes (id, name, oldest) VALUES (?1, ?2, 0)"

# -- states of entries ---------------------------------------------------------

ENTRY = f"""
SELECT {_ENTRY} FROM entries e WHERE e.volume = ?1 AND e.id = ?2 AND e.revision <= ?3
ORDER BY e.revision DESC LIMIT 1
"""

PREVIOUS = f"""
SELECT {_ENTRY}, e.superseded_by FROM entries e
WHERE e.volume = ?1 AND e.id = ?2 AND e.revision < ?3 ORDER BY e.revision DESC LIMIT 1
"""

CHILD = f"""
SELECT {_ENTRY} FROM entries e INDEXED BY placed
WHERE e.volume = ?1 AND e.parent = ?2 AND e.name = ?3 AND e.revision <= ?4 AND {_IS_PLACED}
"""

PAST_CHILD = f"""
SELECT * FROM (
  SELECT {_ENTRY}, e.superseded_by AS ended FROM entries e INDEXED BY was_placed
  WHERE e.volume = ?1 AND e.parent = ?2 AND e.name = ?3 AND e.revision <= ?4 AND {_WAS_PLACED}
  ORDER BY e.revision DESC LIMIT 1
) WHERE ended > ?4
"""
"""A place has one live entry at a time (K2), so only the last one put there by ?4 can be it."""

CHILDREN = f"""
SELECT {_ENTRY} FROM entries e INDEXED BY placed
WHERE e.volume = ?1 AND e.parent = ?2 AND e.name > ?3 AND e.revision <= ?4 AND {_IS_PLACED}
ORDER BY e.name LIMIT ?5
"""

DIRECTORIES = f"""
SELECT {_ENTRY} FROM entries e INDEXED BY placed
WHERE e.volume = ?1 AND e.parent = ?2 AND e.revision <= ?3 AND {_IS_PLACED}
  AND e.kind = {Kind.DIRECTORY:d}
ORDER BY e.name
"""

PAST_CHILDREN = f"""
WITH RECURSIVE names (name) AS (
  SELECT (
    SELECT e.name FROM entries e INDEXED BY was_placed
    WHERE e.volume = ?1 AND e.parent = ?2 AND e.name > ?3 AND {_WAS_PLACED}
    ORDER BY e.name LIMIT 1)
  UNION ALL
  SELECT (
    SELECT e.name FROM entries e INDEXED BY was_placed
    WHERE e.volume = ?1 AND e.parent = ?2 AND e.name > names.name AND {_WAS_PLACED}
    ORDER BY e.name LIMIT 1)
  FROM names WHERE names.name IS NOT NULL
)
SELECT {_ENTRY} FROM names CROSS JOIN entries e INDEXED BY was_placed
ON e.volume = ?1 AND e.parent = ?2 AND e.name = names.name AND e.revision = (
  SELECT e.revision FROM entries e INDEXED BY was_placed
  WHERE e.volume = ?1 AND e.parent = ?2 AND e.name = names.name AND e.revision <= ?4
    AND {_WAS_PLACED}
  ORDER BY e.revision DESC LIMIT 1)
WHERE e.superseded_by > ?4 AND {_WAS_PLACED} LIMIT ?5
"""
"""Superseded states that stood in a directory at ?4, by name; CHILDREN has those that stand."""

PAGE = f"""
WITH RECURSIVE ids (id) AS (
  SELECT (
    SELECT e.id FROM entries e WHERE e.volume = ?1 AND e.id > ?2 ORDER BY e.id LIMIT 1)
  UNION ALL
  SELECT (
    SELECT e.id FROM entries e WHERE e.volume = ?1 AND e.id > ids.id ORDER BY e.id LIMIT 1)
  FROM ids WHERE ids.id IS NOT NULL
)
SELECT {_ENTRY} FROM ids CROSS JOIN entries e
ON e.volume = ?1 AND e.id = ids.id AND e.revision = (
  SELECT e.revision FROM entries e
  WHERE e.volume = ?1 AND e.id = ids.id AND e.revision <= ?3 ORDER BY e.revision DESC LIMIT 1)
WHERE e.is_live = 1 LIMIT ?4
"""

SUPERSEDE = """
UPDATE entries SET superseded_by = ?3 WHERE volume = ?1 AND id = ?2 AND superseded_by IS NULL
AND revision = (
  SELECT e.revision FROM entries e WHERE e.volume = ?1 AND e.id = ?2
  ORDER BY e.revision DESC LIMIT 1)
"""

ADD_ENTRY = """
INSERT INTO entries (volume, ordinal, id, revision, parent, name, kind, mode, mtime_ns, size,
  digest, manifest, target, is_live)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
"""

# -- commits -------------------------------------------------------------------

HEAD = """
SELECT revision, id, table_digest FROM commits WHERE volume = ?1 ORDER BY revision DESC LIMIT 1
"""

COMMITS = """
SELECT revision, id, author, author_name, op_id, time_ns, is_confirmed, table_digest
FROM commits WHERE volume = ?1 AND revision > ?2 ORDER BY revision LIMIT ?3
"""

COMMIT_ID = "SELECT id FROM commits WHERE volume = ?1 AND revision = ?2"

SIGNATURE = "SELECT author_name, time_ns FROM commits WHERE volume = ?1 AND revision = ?2"

COMMITTED = f"""
SELECT {_ENTRY} FROM entries e INDEXED BY committed
WHERE e.volume = ?1 AND e.revision BETWEEN ?2 AND ?3 ORDER BY e.revision, e.ordinal
"""

ANSWER = "SELECT fingerprint, answer FROM commits WHERE volume = ?1 AND author = ?2 AND op_id = ?3"

NAME_REPLICA = """
INSERT INTO replicas (volume, id, name) VALUES (?1, ?2, ?3)
ON CONFLICT (volume, id) DO UPDATE SET name = excluded.name WHERE name <> excluded.name
"""

ADD_COMMIT = """
INSERT INTO commits (volume, revision, id, author, author_name, op_id, time_ns, is_confirmed,
  table_digest, fingerprint, answer)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
"""

# -- chunks --------------------------------------------------------------------

LOOK_UP_EACH = 64
_IS_ONE_OF = f"digest IN ({', '.join(f'?{number + 2}' for number in range(LOOK_UP_EACH))})"

_WHOLE = "SELECT digest, pack, start, size FROM chunks WHERE volume = ?1 AND is_damaged = 0"
LOCATE = f"{_WHOLE} AND digest = ?2"
LOCATE_MANY = f"{_WHOLE} AND {_IS_ONE_OF}"

_DAMAGED = (
    "SELECT digest, pack, start, size FROM chunks INDEXED BY damaged"
    " WHERE volume = ?1 AND is_damaged = 1"
)
DAMAGED = f"{_DAMAGED} AND digest = ?2"
DAMAGED_MANY = f"{_DAMAGED} AND {_IS_ONE_OF}"
HAS_DAMAGED = """
SELECT 1 FROM chunks INDEXED BY damaged WHERE volume = ?1 AND is_damaged = 1 LIMIT 1
"""

LOCATED = """
SELECT digest, start, size FROM chunks INDEXED BY packed
WHERE volume = ?1 AND pack = ?2 AND start > ?3 ORDER BY start LIMIT ?4
"""

ADD_CHUNK = """
INSERT INTO chunks (volume, digest, pack, start, size) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (volume, digest) DO UPDATE SET
  pack = excluded.pack, start = excluded.start, size = excluded.size, is_damaged = 0
WHERE is_damaged = 1
"""

MARK_DAMAGED = """
UPDATE chunks SET is_damaged = 1
WHERE volume = ?1 AND digest = ?2 AND pack = ?3 AND start = ?4 AND size = ?5
"""
FORGET_CHUNKS = "DELETE FROM chunks WHERE volume = ?1"

# -- user locks ----------------------------------------------------------------

_LOCK = "entry, token, replica, name, host, session, reason, lease_s, ttl_s, granted_ns"
LOCKS = f"SELECT {_LOCK}, held_s, left_s FROM locks WHERE volume = ?1"
LAST_TOKEN = "SELECT last FROM lock_tokens WHERE volume = ?1"
PUT_LOCK = f"""
INSERT OR REPLACE INTO locks (volume, {_LOCK}, held_s, left_s)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
"""
DROP_LOCK = "DELETE FROM locks WHERE volume = ?1 AND entry = ?2"
KEEP_TOKEN = """
INSERT INTO lock_tokens (volume, last) VALUES (?1, ?2)
ON CONFLICT (volume) DO UPDATE SET last = excluded.last
"""
LOCK_BREAKS = f"""
SELECT time_ns, by_replica, by_name, by_host, path, held_s, {_LOCK}
FROM lock_breaks INDEXED BY broken WHERE volume = ?1 ORDER BY number DESC LIMIT ?2
"""
ADD_LOCK_BREAK = f"""
INSERT INTO lock_breaks (volume, time_ns, by_replica, by_name, by_host, path, held_s, {_LOCK})
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
"""
FORGET_LOCK_BREAKS = """
DELETE FROM lock_breaks WHERE volume = ?1 AND number <= (
  SELECT number FROM lock_breaks INDEXED BY broken WHERE volume = ?1
  ORDER BY number DESC LIMIT 1 OFFSET ?2)
"""
