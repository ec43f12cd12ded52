"""The client's end: a link to one volume, and who this replica is."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.system import RandomIds
from syncline.compose.config import ClientConfig
from syncline.core.changes import Author, HeldToken
from syncline.core.identity import ID_BYTES, ReplicaId, parse_replica_id
from syncline.core.names import escape
from syncline.core.user_locks import SessionId
from syncline.errors import Invalid
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.ids import Ids
from syncline.ports.link import LockingLink
from syncline.rpc.link import GrpcLink

logger = logging.getLogger(__name__)

READER_THREADS = 3

HOST_CHARACTERS_MAX = 200
"""Below 255 bytes of the wire: an escaped name is ASCII but for letters of other scripts."""


def open_link(config: ClientConfig, tokens: Sequence[HeldToken] = ()) -> LockingLink:
    """Return a link to the configured volume; nothing is sent before its first call.

    `tokens` are of user locks that all it stores and deletes is done under.
    """
    return GrpcLink(config.server, config.volume, timeout_s=config.timeout_s, tokens=tokens)


def host() -> str:
    """Return what this machine calls itself, as others see it beside a lock."""
    return escape(os.fsencode(socket.gethostname()))[:HOST_CHARACTERS_MAX] or "unknown"


def lock_session(author: Author) -> SessionId:
    """Return the session of this user's one-shot locks: a later command is of the same one."""
    return SessionId(author.replica)


def fresh_session() -> SessionId:
    """Return a session that nobody has."""
    return SessionId(os.urandom(ID_BYTES))


def ids() -> Ids:
    """Return the source of fresh identifiers."""
    return RandomIds()


def chunker() -> Chunker:
    """Return the chunker."""
    return FastCdcChunker()


def executor() -> Executor:
    """Return the threads that read and digest files."""
    return ThreadExecutor("reader", threads=READER_THREADS)


def author(config: ClientConfig) -> Author:
    """Return who makes this machine's one-shot commits: one replica a user, with its human name."""
    return Author(_replica(default_state() / "replica"), config.name)


def default_state() -> Path:
    """Return where this user's client keeps what it must remember."""
    import platformdirs

    return Path(platformdirs.user_state_dir("syncline", appauthor=False))


def _replica(path: Path) -> ReplicaId:
    """Return the replica id kept in a file, made at first use; a fresh one if it cannot be."""
    try:
        return parse_replica_id(bytes.fromhex(path.read_text("ascii").strip()))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, Invalid) as error:
        logger.warning("replica_id_unreadable path=%r error=%r", str(path), str(error))
        return RandomIds().replica()
    replica = RandomIds().replica()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = path.with_name(f"replica.{os.urandom(ID_BYTES).hex()}")
        scratch.write_text(replica.hex() + "\n", "ascii")
        # Two first commands at once: the one that comes second takes the id of the first.
        try:
            os.link(scratch, path)
        except FileExistsError:
            return _replica(path)
        finally:
            scratch.unlink()
    except OSError as error:
        logger.warning("replica_id_not_kept path=%r error=%r", str(path), error.strerror)
    return replica
