"""Renames that replace nothing, and exchanges, on file systems with and without the flags for them.

Most file systems have the flags of `renameat2`; network and FUSE file systems often have not. There
the same is done in steps, so that nothing is ever replaced unseen; what the steps cost is said at
each. A directory of a lower layer of overlayfs cannot be renamed at all: EXDEV, with either way.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import ExitStack
from dataclasses import dataclass

from syncline.adapters.linux import RENAME_EXCHANGE, RENAME_NOREPLACE, rename_flagged
from syncline.ports.files import EXCHANGE_PREFIX

_STEP_UP = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NO_FLAGS = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})


@dataclass(frozen=True, slots=True)
class Spot:
    """A name in an open directory."""

    fd: int
    name: bytes

    def look(self) -> os.stat_result:
        """Return what `lstat` says."""
        return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)


@dataclass(frozen=True, slots=True)
class Renames:
    """Moves and exchanges. `has_flags`: whether to try `renameat2` before the steps."""

    has_flags: bool = True

    def move(self, source: Spot, target: Spot, *, keeps_writers: bool = False) -> None:
        """Rename, or raise EEXIST; `keeps_writers` as in the port."""
        if self.has_flags and _is_done(source, target, RENAME_NOREPLACE):
            return
        if keeps_writers:
            _move_looking(source, target)
        else:
            _move_in_steps(source, target)

    def exchange(self, first: Spot, second: Spot) -> None:
        """Let two things change names; raise ENOENT where one is missing."""
        if not (self.has_flags and _is_done(first, second, RENAME_EXCHANGE)):
            _exchange_in_steps(first, second)


def _is_done(source: Spot, target: Spot, flags: int) -> bool:
    """Rename with flags; return False where these may be unknown."""
    try:
        rename_flagged(source.fd, source.name, target.fd, target.name, flags)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return False
        raise
    return True


def _move_in_steps(source: Spot, target: Spot) -> None:
    """Rename without the flag: a hard link refuses a taken name as well.

    It is a new name, and the one by which a writer opened the file is removed: no watch tells of
    what he writes from then on, and only a scan of everything finds it.
    """
    seen = source.look()
    if stat.S_ISDIR(seen.st_mode):
        _move_looking(source, target)
        return
    try:
        os.link(
            source.name,
            target.name,
            src_dir_fd=source.fd,
            dst_dir_fd=target.fd,
            follow_symlinks=False,
        )
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move_looking(source, target)
        return
    # What replaced the source is not ours to remove: then the thing stays at the target as well.
    # RACE: what replaces it between this look and the removal is lost.
    if not os.path.samestat(source.look(), target.look()):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    os.unlink(source.name, dir_fd=source.fd)


def _move_looking(source: Spot, target: Spot) -> None:
    """Rename without the flag and without a hard link: watches tell of writers as before."""
    source.look()
    if _is_there(target):
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    # RACE: what takes the target's name here is lost: a file, or only an empty directory where the
    # source is a directory. Where other machines write as well, "here" is as long as this one
    # remembers that the name was free.
    os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)


def _is_there(spot: Spot) -> bool:
    try:
        spot.look()
    except FileNotFoundError:
        return False
    return True


def _exchange_in_steps(first: Spot, second: Spot) -> None:
    """Exchange by three renames; the second name is the one that is back soonest.

    The alternative, a hard link to what is displaced and one rename over it, never leaves the name
    empty, but loses what a user puts there between the two; this loses nothing there.

    RACE: until the second step nothing is at the second name. A crash there leaves its content
    under `EXCHANGE_PREFIX` beside the first name, and the next start puts it back; so does a user
    who takes the name meanwhile: then the exchange fails with EEXIST.
    """
    ends = first.look(), second.look()
    if os.path.samestat(*ends):
        return
    if _holds(ends[0], second.fd) or _holds(ends[1], first.fd):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    aside = Spot(first.fd, EXCHANGE_PREFIX + secrets.token_hex(8).encode())
    with ExitStack() as undo:
        os.rename(second.name, aside.name, src_dir_fd=second.fd, dst_dir_fd=aside.fd)
        undo.callback(_move_in_steps, aside, second)
        _move_in_steps(first, second)
        undo.callback(_move_in_steps, second, first)
        # Not by a hard link: a writer may have this one open, above all one whose late save the
        # next look brings back into the mount. For a swap of content the first name is in the
        # client's own directory, where nobody else takes it.
        # RACE: of two entries that change places, what takes the first name here is lost. That is
        # one system call; a writer's open file would be silent until the next scan of everything.
        _move_looking(aside, first)
        # A power loss later on must not bring the name aside back, with what was let go by then.
        os.fsync(first.fd)
        undo.pop_all()


def _holds(seen: os.stat_result, fd: int) -> bool:
    """Tell whether a directory is, or is above, the one that is open as `fd`.

    False too where the way up may not be walked: the steps then fail, and are undone.
    """
    if not stat.S_ISDIR(seen.st_mode):
        return False
    here = os.open(b".", _STEP_UP, dir_fd=fd)
    try:
        while not os.path.samestat(os.fstat(here), seen):
            try:
                above = os.open(b"..", _STEP_UP, dir_fd=here)
            except PermissionError:
                return False
            is_top = os.path.samestat(os.fstat(above), os.fstat(here))
            os.close(here)
            here = above
            if is_top:
                return False
        return True
    finally:
        os.close(here)
