"""Where a mount keeps its state, and how the other commands find it from the directory.

Model: each mounted directory has a place of its own below the user's state directory, named by its
real path. The state lies there, or in a directory that the user chose; then the place, and a small
file in the mount's own `.syncline`, say where. A state says which directory it belongs to.

L1  One process at a time mounts a directory, and one uses a state: both are locked.
L2  A mount lies neither inside another one nor around one, and its state lies outside of it.
L3  A state is never used for another directory than its own while that one is still there: a copy
    of a mounted directory begins anew, and a mounted directory that was moved goes on.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from syncline.client.mount.own_directory import MARKER
from syncline.core.names import RESERVED_ROOT_NAME, escape, unescape
from syncline.errors import InUse, Invalid, LocalFailure, NoSpace, NotFound, SynclineError

logger = logging.getLogger(__name__)

KEY_DIGITS = 16
DIRECTORY_NAME = "directory"
STATE_NAME = "state"
LOCK_NAME = "lock"
_OWN = os.fsdecode(RESERVED_ROOT_NAME)
_NOTE_BYTES_MAX = 64 * 1024
"""An escaped path of 4,096 bytes has at most a quarter of it."""


@dataclass(frozen=True, slots=True)
class MountPlace:
    """A mounted directory, by its real path, and the directory of its state."""

    directory: Path
    state: Path

    @property
    def shown(self) -> str:
        """Return the directory for people."""
        return _shown(self.directory)


def places() -> Path:
    """Return where the places of this user's mounts are."""
    import platformdirs

    state = platformdirs.user_state_dir("syncline", appauthor=False)
    return Path(os.path.realpath(state)) / "mounts"


def default_state(directory: Path) -> Path:
    """Return the place of a directory, which is where its state lies unless the user chose."""
    key = blake3(os.fsencode(directory)).hexdigest()[:KEY_DIGITS]
    return places() / key


# -- Mounting ----------------------------------------------------------------


@contextmanager
def claimed(directory: bytes, state: Path | None) -> Iterator[MountPlace]:
    """Hold a directory and its state for the length of the block; make the state where it is new.

    Raises NotFound where there is no such directory, Invalid where it cannot be mounted (L2, L3),
    InUse where another process has it mounted, NoSpace and LocalFailure.
    """
    real = _real_directory(directory)
    chosen = None if state is None else Path(os.path.realpath(state))
    found = _choose(real, chosen)
    _check_apart(found)
    _check_alone(real)
    # The directory first: who is second then never touches the state of who was first.
    with _locked_directory(found):
        _make(found.state)
        with _locked_state(found):
            _record(found)
            yield found


@contextmanager
def looked_up(directory: bytes, state: Path | None) -> Iterator[MountPlace]:
    """Find where a directory and its state are, and keep others away; nothing is written.

    Raises what `claimed` raises.
    """
    real = _real_directory(directory)
    found = _choose(real, None if state is None else Path(os.path.realpath(state)))
    _check_apart(found)
    _check_alone(real)
    if (real / _OWN).is_dir():
        with _locked_directory(found):
            yield found
    else:
        yield found


def _real_directory(directory: bytes) -> Path:
    shown = escape(directory)
    try:
        real = Path(os.path.realpath(os.fsdecode(directory), strict=True))
        is_directory = stat.S_ISDIR(real.stat().st_mode)
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no directory '{shown}'; make it with 'mkdir', then mount it", local=shown
        ) from error
    except (OSError, ValueError) as error:
        raise _failure(error, shown) from error
    if not is_directory:
        raise Invalid(f"'{shown}' is no directory; mount the directory that it lies in", path=shown)
    return real


def _choose(directory: Path, chosen: Path | None) -> MountPlace:
    """Return the state to use: the one that the user names, else the one used before, if any."""
    default = default_state(directory)
    if chosen is not None:
        owner = _owner(chosen)
        if owner is not None and owner != directory and os.path.isdir(owner):
            raise Invalid(
                f"the state in '{_shown(chosen)}' is that of '{_shown(owner)}'; choose another"
                " directory with --state",
                path=_shown(chosen),
            )
        return MountPlace(directory, chosen)
    for note in (directory / _OWN / STATE_NAME, default / STATE_NAME):
        noted = _read_note(note)
        owner = None if noted is None else _owner(noted)
        if (
            noted is not None
            and owner is not None
            and (owner == directory or not os.path.isdir(owner))
        ):
            return MountPlace(directory, noted)
    return MountPlace(directory, default)


def _check_apart(place: MountPlace) -> None:
    """Raise Invalid where directory and state lie in each other (L2)."""
    state = Path(os.path.realpath(place.state))
    if state.is_relative_to(place.directory) or place.directory.is_relative_to(state):
        raise Invalid(
            f"the state of the mount, '{_shown(state)}', must lie outside of '{place.shown}';"
            " choose another directory with --state",
            path=_shown(state),
        )


def _check_alone(directory: Path) -> None:
    """Raise Invalid where the directory lies in a mount, or has one in it (L2)."""
    for above in directory.parents:
        if _is_mount(above):
            raise Invalid(
                f"'{_shown(directory)}' lies in '{_shown(above)}', which is mounted itself; mount"
                f" one of them alone (a directory stops being a mount without its '{_OWN}')",
                path=_shown(above),
            )
    for below in _known():
        if below != directory and below.is_relative_to(directory) and _is_mount(below):
            raise Invalid(
                f"'{_shown(directory)}' has '{_shown(below)}' in it, which is mounted itself; mount"
                f" one of them alone (a directory stops being a mount without its '{_OWN}')",
                path=_shown(below),
            )


def _is_mount(directory: Path) -> bool:
    return os.path.isfile(directory / _OWN / os.fsdecode(MARKER))


def _known() -> Iterator[Path]:
    """Yield the directories that this user ever mounted."""
    try:
        keys = sorted(places().iterdir())
    except OSError:
        return
    for key in keys:
        owner = _owner(key)
        if owner is not None:
            yield owner


def _record(place: MountPlace) -> None:
    """Write down which directory and which state belong together."""
    default = default_state(place.directory)
    inside = place.directory / _OWN / STATE_NAME
    try:
        _write_note(place.state / DIRECTORY_NAME, place.directory)
        if place.state == default:
            for note in (inside, default / STATE_NAME):
                note.unlink(missing_ok=True)
            return
        _write_note(inside, place.state)
    except OSError as error:
        raise _failure(error, place.shown) from error
    # Who chose another place may have none here; it only serves those who look for the mount
    # while its directory is away.
    try:
        _make(default)
        _write_note(default / DIRECTORY_NAME, place.directory)
        _write_note(default / STATE_NAME, place.state)
    except (OSError, SynclineError) as error:
        logger.warning("mount_not_listed place=%r error=%r", str(default), str(error))


@contextmanager
def _locked_directory(place: MountPlace) -> Iterator[None]:
    own = place.directory / _OWN
    try:
        with suppress(FileExistsError):
            own.mkdir(mode=0o700)
        fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _failure(error, _shown(own)) from error
    try:
        try:
            _lock(fd, f"'{place.shown}' is mounted by another process", place.shown)
        except OSError as error:
            # Some network file systems lock no directories; the lock of the state is left.
            logger.warning("mount_not_locked place=%r error=%r", place.shown, error.strerror)
        yield
    finally:
        os.close(fd)


@contextmanager
def _locked_state(place: MountPlace) -> Iterator[None]:
    path = place.state / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _failure(error, _shown(path)) from error
    try:
        shown = _shown(place.state)
        try:
            _lock(fd, f"the state in '{shown}' is used by another process", shown)
        except OSError as error:
            raise _failure(error, shown) from error
        yield
    finally:
        os.close(fd)


def _lock(fd: int, message: str, shown: str) -> None:
    """Lock until the descriptor is closed; the kernel does that, however the process ends."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            f"{message}; end that one first, or look at it with 'syncline status'", path=shown
        ) from error


# -- Finding -----------------------------------------------------------------


def find_mount(start: bytes | None) -> MountPlace:
    """Return the mount that a directory is, or lies in; None: the current directory.

    It may be one that does not run, or whose directory is away. Raises NotFound.
    """
    try:
        real = Path(os.path.realpath(os.fsdecode(start) if start is not None else Path.cwd()))
    except (OSError, ValueError) as error:
        raise _failure(error, escape(start or b".")) from error
    for directory in (real, *real.parents):
        found = _find(directory)
        if found is not None:
            return found
    shown = _shown(real)
    raise NotFound(
        f"neither '{shown}' nor a directory above it is mounted; mount one with 'syncline mount'",
        local=shown,
        reason="not_mounted",
    )


def _find(directory: Path) -> MountPlace | None:
    default = default_state(directory)
    for note in (directory / _OWN / STATE_NAME, default / STATE_NAME):
        noted = _read_note(note)
        if noted is not None and _owner(noted) == directory:
            return MountPlace(directory, noted)
    return MountPlace(directory, default) if _owner(default) == directory else None


# -- Small files -------------------------------------------------------------


def _owner(state: Path) -> Path | None:
    """Return the directory that a state belongs to."""
    return _read_note(state / DIRECTORY_NAME)


def _read_note(path: Path) -> Path | None:
    """Return the path that a small file holds; None where there is none that is whole.

    The mount's own directory may have been put there by anybody: what is no regular file is no
    note, and is never waited for.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        raw = os.read(fd, _NOTE_BYTES_MAX)
    except OSError:
        return None
    finally:
        os.close(fd)
    if not raw.endswith(b"\n"):
        return None
    try:
        noted = unescape(raw[:-1].decode("utf-8"))
    except (UnicodeDecodeError, Invalid):
        return None
    return Path(os.fsdecode(noted)) if noted.startswith(b"/") and b"\0" not in noted else None


def _write_note(path: Path, noted: Path) -> None:
    """Write a path into a small file, whole or not at all; raise OSError."""
    if _read_note(path) == noted:
        return
    scratch = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        scratch.unlink()
    fd = os.open(
        scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(fd, escape(os.fsencode(noted)).encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    scratch.rename(path)


def _make(directory: Path) -> None:
    """Make the directory of a state, and those above it that are missing."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _failure(error, _shown(directory)) from error


def _shown(path: Path) -> str:
    return escape(os.fsencode(path))


def _failure(error: OSError | ValueError, shown: str) -> SynclineError:
    if not isinstance(error, OSError):
        return Invalid(f"'{shown}' is no path: {error}", path=shown)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space left for '{shown}'", where="local", path=shown)
    if error.errno == errno.ENOTDIR:
        return Invalid(f"'{shown}' is no directory, or lies below a file", path=shown)
    return LocalFailure(f"'{shown}': {error.strerror}", path=shown)
