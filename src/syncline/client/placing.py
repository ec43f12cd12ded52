"""Placing fetched things: each appears whole, with its mode and mtime, or not at all (G2).

L1  Content is staged beside its target, checked against its digest (G8), made durable, and only
    then given its name.
L2  No local link is followed below the base that the user named (G9).
L3  What stands locally and is of another kind is never removed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import assert_never

from blake3 import blake3

from syncline.client.local import (
    OPEN_DIRECTORY,
    OPEN_FILE,
    SYNCS_MAX,
    Directories,
    is_staged,
    join_local,
    local_error,
    open_directory,
    sync_file_system,
)
from syncline.client.staged import (
    Target,
    corrupt,
    failed,
    finish_staged,
    in_the_way,
    open_staged,
    outcome_of,
    place_staged,
    staged_name,
    write_at,
)
from syncline.core.entries import Kind
from syncline.core.identity import Digest, digest_of
from syncline.errors import SynclineError
from syncline.ports.report import PathOutcome, Result

READ_BYTES = 1024 * 1024


class Placer:
    """The local side of one FETCH. Its calls block and may come from several threads."""

    def __init__(self, *, may_overwrite: bool) -> None:
        self.may_overwrite = may_overwrite
        self._blocked: set[tuple[bytes, tuple[bytes, ...]]] = set()
        self._modes: list[tuple[Target, int]] = []
        self._touched: set[tuple[bytes, tuple[bytes, ...]]] = set()
        self._leftovers: dict[tuple[bytes, tuple[bytes, ...]], list[bytes]] = {}

    # -- looking -------------------------------------------------------------

    def inspect(self, targets: Sequence[Target]) -> list[PathOutcome | Target]:
        """Make directories and links, compare files; return outcomes, and the files to be fetched.

        What lies below a directory that failed has neither. Not for two threads at once: a
        directory comes before what is in it.
        """
        results: list[PathOutcome | Target] = []
        with Directories() as directories:
            for target in targets:
                if (target.base, target.parts[:-1]) in self._blocked and target.parts:
                    self._block(target)
                    continue
                try:
                    results.append(self._inspect(target, directories))
                except (OSError, SynclineError) as error:
                    self._block(target)
                    results.append(failed(target, error))
        return results

    def _block(self, target: Target) -> None:
        if target.entry.kind is Kind.DIRECTORY:
            self._blocked.add((target.base, target.parts))

    def _inspect(self, target: Target, directories: Directories) -> PathOutcome | Target:
        kind = target.entry.kind
        if kind is Kind.DIRECTORY:
            return outcome_of(target, self._make_directory(target, directories))
        if not target.parts:
            raise in_the_way(target, "directory")
        directory = directories.open(target.base, target.parts[:-1])
        standing = self._standing(directory, target)
        match kind:
            case Kind.LINK:
                return outcome_of(target, self._make_link(target, directory, standing))
            case Kind.FILE:
                result = self._compare(target, directory, standing)
                return target if result is None else outcome_of(target, result)
            case _:
                assert_never(kind)

    def _standing(self, directory: int, target: Target) -> os.stat_result | None:
        """Return what is at a place of a file or link; raise Exists for a directory or device."""
        try:
            status = os.stat(target.parts[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise in_the_way(target, "directory")
        if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
            raise in_the_way(target, "special file")
        return status

    def _make_directory(self, target: Target, directories: Directories) -> Result:
        wanted = target.entry.mode
        result = Result.UNCHANGED
        if target.parts:
            parent = directories.open(target.base, target.parts[:-1])
            with suppress(FileExistsError):
                # Open to its owner until all that belongs inside is there.
                os.mkdir(target.parts[-1], wanted | 0o700, dir_fd=parent)
                self.touch(target)
                result = Result.FETCHED
            fd = self._open_made(target, parent)
        else:
            fd = open_directory(target.base, ())
        try:
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            if result is Result.UNCHANGED and mode != wanted:
                if not self.may_overwrite:
                    raise in_the_way(target, "directory with another mode")
                result = Result.FETCHED
            open_mode = wanted | 0o700
            if mode != open_mode:
                os.fchmod(fd, open_mode)
            if wanted != open_mode:
                self._modes.append((target, wanted))
        finally:
            os.close(fd)
        return result

    def _open_made(self, target: Target, parent: int) -> int:
        try:
            return os.open(target.parts[-1], OPEN_DIRECTORY, dir_fd=parent)
        except NotADirectoryError as error:
            status = os.stat(target.parts[-1], dir_fd=parent, follow_symlinks=False)
            is_link = stat.S_ISLNK(status.st_mode)
            raise in_the_way(target, "symbolic link" if is_link else "file") from error

    def _make_link(self, target: Target, directory: int, standing: os.stat_result | None) -> Result:
        wanted = target.entry
        assert wanted.target is not None
        if standing is not None:
            is_same = (
                stat.S_ISLNK(standing.st_mode)
                and os.readlink(target.parts[-1], dir_fd=directory) == wanted.target
            )
            if is_same and standing.st_mtime_ns == wanted.mtime_ns:
                return Result.UNCHANGED
            self._check_replaceable(target, standing)
        staged = staged_name(target.parts[-1], digest_of(wanted.target))
        with suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=directory)
        os.symlink(wanted.target, staged, dir_fd=directory)
        try:
            times = (wanted.mtime_ns, wanted.mtime_ns)
            os.utime(staged, ns=times, dir_fd=directory, follow_symlinks=False)
            place_staged(directory, staged, target, may_overwrite=self.may_overwrite)
        except (OSError, SynclineError):
            os.unlink(staged, dir_fd=directory)
            raise
        self.touch(target)
        return Result.FETCHED

    def _check_replaceable(self, target: Target, standing: os.stat_result) -> None:
        if not self.may_overwrite:
            is_link = stat.S_ISLNK(standing.st_mode)
            raise in_the_way(target, "symbolic link" if is_link else "file")

    def _compare(
        self, target: Target, directory: int, standing: os.stat_result | None
    ) -> Result | None:
        """Return the result where the content is there already; None where it must be fetched."""
        if standing is None:
            return None
        entry = target.entry
        if stat.S_ISREG(standing.st_mode) and standing.st_size == entry.size:
            fd = os.open(target.parts[-1], OPEN_FILE, dir_fd=directory)
            try:
                if _digest_file(fd) == target.digest:
                    is_same = (
                        stat.S_IMODE(standing.st_mode) == entry.mode
                        and standing.st_mtime_ns == entry.mtime_ns
                    )
                    if is_same:
                        return Result.UNCHANGED
                    self._check_replaceable(target, standing)
                    finish_staged(fd, target)
                    return Result.FETCHED
            finally:
                os.close(fd)
        self._check_replaceable(target, standing)
        return None

    # -- placing -------------------------------------------------------------

    def place(self, contents: Sequence[tuple[Target, bytes]]) -> list[PathOutcome]:
        """Place files whose content is at hand, with few syncs for all (L1)."""
        outcomes = []
        staged: list[tuple[Target, bytes]] = []
        is_few = len(contents) <= SYNCS_MAX
        with Directories() as directories:
            for target, content in contents:
                try:
                    name = self._stage(target, content, directories, is_synced=is_few)
                except (OSError, SynclineError) as error:
                    outcomes.append(failed(target, error))
                else:
                    staged.append((target, name))
            broken = None if is_few else _sync_bases(staged, directories)
            for target, name in staged:
                try:
                    directory = directories.open(target.base, target.parts[:-1])
                    if broken is not None:
                        os.unlink(name, dir_fd=directory)
                        raise broken
                    self._name(directory, name, target)
                except (OSError, SynclineError) as error:
                    outcomes.append(failed(target, error))
                else:
                    outcomes.append(outcome_of(target, Result.FETCHED))
        return outcomes

    def _stage(
        self, target: Target, content: bytes, directories: Directories, *, is_synced: bool
    ) -> bytes:
        if digest_of(content) != target.digest:
            raise corrupt(target)
        directory = directories.open(target.base, target.parts[:-1])
        name, fd = open_staged(directory, target.parts[-1], target.digest)
        try:
            os.ftruncate(fd, 0)
            write_at(fd, content, 0)
            finish_staged(fd, target)
            if is_synced:
                os.fdatasync(fd)
        except OSError:
            os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(fd)
        return name

    def _name(self, directory: int, staged: bytes, target: Target) -> None:
        try:
            place_staged(directory, staged, target, may_overwrite=self.may_overwrite)
        except (OSError, SynclineError):
            with suppress(FileNotFoundError):
                os.unlink(staged, dir_fd=directory)
            raise
        self.touch(target)

    def touch(self, target: Target) -> None:
        """Note that a name was made in the target's directory."""
        self._touched.add((target.base, target.parts[:-1]))

    def leftovers(self, target: Target, directory: int) -> list[bytes]:
        """Return the staged files that were in the target's directory at the first such look."""
        key = (target.base, target.parts[:-1])
        if key not in self._leftovers:
            names = [os.fsencode(name) for name in os.listdir(directory)]
            self._leftovers[key] = [name for name in names if is_staged(name)]
        return self._leftovers[key]

    # -- the end -------------------------------------------------------------

    def close(self) -> list[PathOutcome]:
        """Give directories their modes, the deepest first, and make names durable.

        Returns what failed; raises LocalFailure or NoSpace when a sync did.
        """
        outcomes = []
        deepest_first = sorted(self._modes, key=lambda made: len(made[0].parts), reverse=True)
        with Directories() as directories:
            for target, mode in deepest_first:
                try:
                    os.fchmod(directories.open(target.base, target.parts), mode)
                except OSError as error:
                    outcomes.append(failed(target, error))
        self._modes.clear()
        self._sync()
        return outcomes

    def _sync(self) -> None:
        bases = {base for base, _ in self._touched}
        if len(self._touched) <= SYNCS_MAX:
            bases = {base for base, parts in self._touched if not _sync_directory(base, parts)}
        for base in sorted(bases):
            try:
                fd = open_directory(base, ())
                try:
                    sync_file_system(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                raise local_error(error, base) from error
        self._touched.clear()


def _sync_directory(base: bytes, parts: tuple[bytes, ...]) -> bool:
    """Make the names in a directory durable; tell whether that was possible.

    It may have been moved, or closed by its final mode: then its file system is synced as a whole.
    """
    try:
        fd = open_directory(base, parts)
    except OSError:
        return False
    try:
        os.fsync(fd)
    except OSError as error:
        raise local_error(error, join_local(base, parts)) from error
    finally:
        os.close(fd)
    return True


def _sync_bases(staged: Sequence[tuple[Target, bytes]], directories: Directories) -> OSError | None:
    """Make staged files durable; return the error when they are not: then none may be named."""
    try:
        for base in {target.base for target, _ in staged}:
            sync_file_system(directories.open(base, ()))
    except OSError as error:
        return error
    return None


def _digest_file(fd: int) -> Digest:
    hasher = blake3()
    while piece := os.read(fd, READ_BYTES):
        hasher.update(piece)
    return Digest(hasher.digest())
