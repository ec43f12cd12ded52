"""What the users of a simulated world do to their files: all that is allowed, at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from syncline.core.names import RESERVED_ROOT_NAME
from syncline.ports.files import FileKind
from tests.support.simulation.inodes import Inode
from tests.support.simulation.oracle import Oracle, contents_of
from tests.support.simulation.user_side import Node, User, Writer

NAMES = (b"a", b"b", b"c", b"n\xff", b"x.txt", b"long " + b"n" * 240)
LARGE_BYTES = 1_300_000
MEDIUM_BYTES = 150_000


@dataclass
class Hands:
    """One user at one machine; every call does one thing, or fails as the kernel would."""

    name: str
    user: User
    random: random.Random
    oracle: Oracle
    now_s: Callable[[], float]
    has_patience: bool = True
    """Whether he keeps files open for long."""
    is_away: bool = False
    """He does nothing just now."""
    large: float = 0.02
    """How much of what he writes is large."""
    done: int = 0
    late_writes: int = 0
    """How often he wrote into what had been swapped out of the mount."""
    _count: int = 0
    _writers: list[tuple[Writer, bytes]] = field(default_factory=list)
    _written: list[Writer] = field(default_factory=list)
    _removed: list[Inode] = field(default_factory=list)

    def act(self) -> None:
        """Do one thing; what is impossible just now is not done."""
        if self.is_away:
            return
        actions = (
            (self._create, 14),
            (self._edit, 16),
            (self._save, 10),
            (self._append, 4),
            (self._truncate_and_write, 4),
            (self._rename, 14),
            (self._replace, 5),
            (self._exchange, 3),
            (self._mkdir, 10),
            (self._delete, 8),
            (self._rmtree, 3),
            (self._chmod, 5),
            (self._symlink, 3),
            (self._recreate, 4),
            (self._touch, 3),
            (self._vim, 5),
            (self._open, 4 if self.has_patience else 0),
            (self._write_open, 6),
            (self._close, 5),
        )
        [action] = self.random.choices([a for a, _ in actions], [w for _, w in actions])
        try:
            action()
        except OSError:
            return
        self.done += 1

    def give_up_at(self, path: bytes) -> None:
        """Do without what is at and below a path."""
        self._give_up(path, is_removed=True)

    def let_go(self) -> None:
        """Close what is open."""
        while self._writers:
            self._close()

    # -- looking -----------------------------------------------------------------

    def tree(self) -> dict[bytes, Node]:
        """Return what the user sees; the client's own directory is none of his business."""
        own = RESERVED_ROOT_NAME
        return {
            path: node
            for path, node in self.user.tree().items()
            if path != own and not path.startswith(own + b"/")
        }

    def _pick(self, *kinds: FileKind) -> bytes:
        found = [path for path, node in self.tree().items() if node.kind in kinds]
        if not found:
            raise FileNotFoundError
        return self.random.choice(found)

    def _directory(self) -> bytes:
        found = [p for p, node in self.tree().items() if node.kind is FileKind.DIRECTORY]
        return self.random.choice([b"", *found])

    def _place(self) -> bytes:
        directory, name = self._directory(), self.random.choice(NAMES)
        return directory + b"/" + name if directory else name

    def _content(self) -> bytes:
        self._count += 1
        token = b"%s-%d " % (self.name.encode(), self._count)
        kind = self.random.random()
        if kind < self.large:
            return token + self.random.randbytes(LARGE_BYTES)
        if kind < self.large + 0.04:
            return token + self.random.randbytes(MEDIUM_BYTES)
        return token

    # -- noting ------------------------------------------------------------------

    def _log(self, what: str, *paths: bytes) -> None:
        shown = " ".join(repr(path.replace(b"n" * 240, b"nnn"))[1:] for path in paths)
        self.oracle.note(f"{self.now_s():9.3f} {self.name} {what} {shown}")

    def _give_up(self, path: bytes, *, is_removed: bool = False) -> None:
        """Give up what is at and below a path; `is_removed`: and the things themselves."""
        for other, node in self.tree().items():
            if other == path or other.startswith(path + b"/"):
                content = contents_of(node)
                if content is not None:
                    self.oracle.give_up(content)
                    if is_removed:
                        self._removed.append(self.user.inode(other))

    def _saved(self, path: bytes, content: bytes) -> None:
        self.oracle.save(content, f"{self.name}:{path!r}")

    # -- doing -------------------------------------------------------------------

    def _create(self) -> None:
        self.create_at(self._place())

    def create_at(self, path: bytes) -> None:
        """Make a file where nothing is."""
        if self.user.exists(path):
            raise FileExistsError
        content = self._content()
        self.user.write(path, content)
        self._saved(path, content)
        self._log("creates", path)

    def _edit(self) -> None:
        self.edit_at(self._pick(FileKind.FILE))

    def edit_at(self, path: bytes) -> None:
        """Write a file anew, in its place."""
        content = self._content()
        self._give_up(path)
        self.user.write(path, content, keeps_bytes=False)
        self._saved(path, content)
        self._log("edits", path)

    def _save(self) -> None:
        self.save_at(self._pick(FileKind.FILE))

    def save_at(self, path: bytes) -> None:
        """Put another file in the place of one."""
        content = self._content()
        self._give_up(path, is_removed=True)
        self.oracle.make(content)
        self.user.save(path, content)
        self._saved(path, content)
        self._log("saves", path)

    def _append(self) -> None:
        path = self._pick(FileKind.FILE)
        content = self.user.read(path) + self._content()
        self._give_up(path)
        writer = self.user.open_writer(path)
        writer.seek(len(self.user.read(path)))
        writer.write(content[len(self.user.read(path)) :])
        writer.close()
        self._saved(path, self.user.read(path))
        self._log("appends to", path)

    def _truncate_and_write(self) -> None:
        path, content = self._pick(FileKind.FILE), self._content()
        self._give_up(path)
        writer = self.user.open_writer(path, truncates=True)
        writer.write(content)
        writer.close()
        self._saved(path, content)
        self._log("truncates and writes", path)

    def _rename(self) -> None:
        self.rename_to(self._pick(*FileKind), self._place())

    def rename_to(self, source: bytes, target: bytes) -> None:
        """Give a thing a name that is free."""
        if self.user.exists(target) or target.startswith(source + b"/"):
            raise FileExistsError
        self.user.rename(source, target)
        self._log("renames", source, target)

    def _replace(self) -> None:
        source, target = self._pick(FileKind.FILE), self._pick(FileKind.FILE)
        if source == target:
            raise FileExistsError
        self._give_up(target, is_removed=True)
        self.user.rename(source, target)
        self._log("renames over", source, target)

    def _exchange(self) -> None:
        one, other = self._pick(*FileKind), self._pick(*FileKind)
        if other.startswith(one + b"/") or one.startswith(other + b"/") or one == other:
            raise FileExistsError
        self.user.exchange(one, other)
        self._log("exchanges", one, other)

    def _mkdir(self) -> None:
        path = self._place()
        if path.count(b"/") > 3:
            raise FileExistsError
        self.user.mkdir(path)
        self._log("makes directory", path)

    def _delete(self) -> None:
        path = self._pick(FileKind.FILE, FileKind.LINK)
        self._give_up(path, is_removed=True)
        self.user.unlink(path)
        self._log("deletes", path)

    def _rmtree(self) -> None:
        self.rmtree_at(self._pick(FileKind.DIRECTORY))

    def rmtree_at(self, path: bytes) -> None:
        """Delete a directory with all that is in it."""
        self._give_up(path, is_removed=True)
        self.user.rmtree(path)
        self._log("deletes tree", path)

    def _chmod(self) -> None:
        path = self._pick(FileKind.FILE, FileKind.DIRECTORY)
        mode = self.random.choice((0o600, 0o644, 0o700, 0o755))
        self.user.chmod(path, mode | (0o700 if self.tree()[path].content == b"" else 0))
        self._log("changes mode of", path)

    def _symlink(self) -> None:
        path = self._place()
        target = b"../%s-%d" % (self.name.encode(), self._count)
        self._count += 1
        self.user.symlink(path, target)
        self._saved(path, target)
        self._log("links", path)

    def _recreate(self) -> None:
        path, content = self._pick(FileKind.FILE), self._content()
        self._give_up(path, is_removed=True)
        self.user.unlink(path)
        self.user.write(path, content)
        self._saved(path, content)
        self._log("deletes and recreates", path)

    def _touch(self) -> None:
        path = self._pick(FileKind.FILE)
        self.user.utime(path, self.random.choice((0, -5, 2**40, 10**18)))
        self._log("touches", path)

    def _vim(self) -> None:
        """Save as vim does, with a backup that is removed afterwards."""
        path, content = self._pick(FileKind.FILE), self._content()
        backup = path[:-1] + b"~"
        if self.user.exists(backup):
            raise FileExistsError
        self._give_up(path, is_removed=True)
        self.user.rename(path, backup)
        self.user.write(path, content)
        self._saved(path, content)
        self.user.unlink(backup)
        self._log("saves by vim", path)

    # -- descriptors that stay open ------------------------------------------------

    def _open(self) -> None:
        self.open_at(self._pick(FileKind.FILE))

    def open_at(self, path: bytes) -> None:
        """Open a file for writing, and keep it open."""
        self._writers.append((self.user.open_writer(path), path))
        self._log("opens", path)

    def _write_open(self) -> None:
        if not self._writers:
            raise FileNotFoundError
        writer, path = self.random.choice(self._writers)
        self.oracle.give_up(writer.content())
        self.late_writes += b"/displaced/" in writer.where
        writer.write(self._content())
        self.oracle.make(writer.content())
        self._written.append(writer)
        self._log("writes on into", path)

    def _close(self) -> None:
        """Close a file; what was written counts unless its user removed it himself meanwhile."""
        if not self._writers:
            raise FileNotFoundError
        index = self.random.randrange(len(self._writers))
        writer, path = self._writers.pop(index)
        if writer.is_open and any(writer is each for each in self._written):
            content = writer.content()
            is_removed = any(writer.inode is inode for inode in self._removed)
            if not is_removed and content not in self.oracle.given_up:
                self.oracle.save(content, f"{self.name}:{path!r} through a descriptor")
        writer.close()
        self._log("closes", path)
