"""The simulated disk and watcher against the kernel: the same calls, the same answers."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from syncline.core.identity import ROOT_ID, EntryId
from syncline.ports.files import Directory, File, FileKind, Status
from syncline.ports.watcher import Noticed, Watcher
from tests.support.mount_adapters import MountBench, OpenWriter, PosixBench, SimulatedBench

STEPS = 150
HANDLES = 4
NAMES = [b"a", b"b", b"c"]
TARGET = b"/proc/version"
"""A link to a file: a path through it fails alike, whether the link is followed or not."""


@dataclass
class World:
    """One of the two: its bench, and the directories that the engine has open."""

    bench: MountBench
    watcher: Watcher
    handles: list[Directory] = field(default_factory=list)
    held: list[File | None] = field(default_factory=lambda: [None] * HANDLES)
    writers: list[OpenWriter | None] = field(default_factory=lambda: [None] * HANDLES)

    def close(self) -> None:
        for opened in (*self.held, *self.writers):
            if opened is not None:
                opened.close()
        for handle in self.handles:
            handle.close()
        self.bench.close()


Step = Callable[[World], object]


@contextmanager
def world(bench: MountBench) -> Iterator[World]:
    made = World(bench, bench.watcher())
    made.handles = [bench.files().open_root() for _ in range(HANDLES)]
    try:
        yield made
    finally:
        made.close()


def shown(status: Status | None) -> object:
    if status is None:
        return None
    size = 0 if status.kind is FileKind.DIRECTORY else status.size
    return status.kind, status.mode, size


def outcome(step: Step, at: World) -> object:
    try:
        return step(at)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def read(directory: Directory, name: bytes) -> object:
    with closing(directory.open(name)) as file:
        return file.read(1000, 0), shown(file.status())


def rewrite(directory: Directory, name: bytes, content: bytes, offset: int) -> None:
    with closing(directory.open_to_write(name)) as file:
        file.write(content, offset)


def create(directory: Directory, name: bytes, content: bytes) -> None:
    with closing(directory.create(name)) as file:
        file.write(content, 0)


def shorten(directory: Directory, name: bytes, size: int) -> None:
    with closing(directory.open_to_write(name)) as file:
        file.truncate(size)


def enter(at: World, slot: int, from_slot: int, name: bytes) -> None:
    entered = at.handles[from_slot].enter(name)
    at.handles[slot].close()
    at.handles[slot] = entered


def open_held(at: World, slot: int, from_slot: int, name: bytes) -> None:
    opened = at.handles[from_slot].open(name)
    close_held(at, slot)
    at.held[slot] = opened


def close_held(at: World, slot: int) -> None:
    opened, at.held[slot] = at.held[slot], None
    if opened is not None:
        opened.close()


def ask_held(at: World, slot: int, question: Callable[[File], object]) -> object:
    opened = at.held[slot]
    return opened and question(opened)


def hold(file: File) -> object:
    file.release()
    return file.hold()


def facts(file: File) -> object:
    return shown(file.status()), file.read(1000, 0)


def open_writer(at: World, slot: int, path: bytes, *, truncates: bool) -> None:
    opened = at.bench.user.open_writer(path, truncates=truncates)
    close_writer(at, slot)
    at.writers[slot] = opened


def close_writer(at: World, slot: int) -> None:
    opened, at.writers[slot] = at.writers[slot], None
    if opened is not None:
        opened.close()


def go_on_writing(at: World, slot: int, content: bytes) -> None:
    opened = at.writers[slot]
    if opened is not None:
        opened.write(content)


def listed(directory: Directory) -> object:
    return sorted((name, str(shown(status))) for name, status in directory.list())


def engine_step(random: Random) -> tuple[str, Step]:
    slot, other = random.randrange(HANDLES), random.randrange(HANDLES)
    name, to = random.choice(NAMES), random.choice(NAMES)
    mode = random.choice([0o700, 0o755, 0o4711, 0o1777])
    content, offset = random.randbytes(random.randrange(5)), random.randrange(6)
    id = EntryId(bytes([random.randrange(1, 6)] * 16))

    def on(act: Callable[[Directory], object]) -> Step:
        return lambda at: act(at.handles[slot])

    def between(act: Callable[[Directory, Directory], object]) -> Step:
        return lambda at: act(at.handles[slot], at.handles[other])

    return random.choice(
        [
            ("status", on(lambda d: shown(d.status()))),
            ("list", on(listed)),
            ("look", on(lambda d: shown(d.look(name)))),
            ("enter", lambda at: enter(at, slot, other, name)),
            ("enter", lambda at: enter(at, slot, other, name)),
            ("read", on(lambda d: read(d, name))),
            ("rewrite", on(lambda d: rewrite(d, name, content, offset))),
            ("shorten", on(lambda d: shorten(d, name, offset))),
            ("create", on(lambda d: create(d, name, content))),
            ("read_link", on(lambda d: d.read_link(name))),
            ("make_directory", on(lambda d: d.make_directory(name, mode))),
            ("make_link", on(lambda d: d.make_link(name, TARGET))),
            ("link", between(lambda d, e: d.link(name, e, to))),
            ("move", between(lambda d, e: d.move(name, e, to))),
            ("move", between(lambda d, e: d.move(name, e, to))),
            ("exchange", between(lambda d, e: d.exchange(name, e, to))),
            ("exchange", between(lambda d, e: d.exchange(name, e, to))),
            ("remove", on(lambda d: d.remove(name))),
            ("remove_directory", on(lambda d: d.remove_directory(name))),
            ("set_mode", on(lambda d: d.set_mode(name, mode))),
            ("set_mtime", on(lambda d: d.set_mtime(name, 5))),
            ("open", lambda at: open_held(at, slot, other, name)),
            ("open", lambda at: open_held(at, slot, other, name)),
            ("close", lambda at: close_held(at, slot)),
            ("facts", lambda at: ask_held(at, slot, facts)),
            ("hold", lambda at: ask_held(at, slot, hold)),
            ("is_held", lambda at: ask_held(at, slot, lambda file: file.is_held())),
            ("release", lambda at: ask_held(at, slot, lambda file: file.release())),
            ("add", lambda at: at.watcher.add(at.handles[slot], id)),
            ("add", lambda at: at.watcher.add(at.handles[slot], id)),
            ("forget", lambda at: at.watcher.forget(id)),
            ("relabel", lambda at: at.watcher.relabel(id, EntryId(bytes([9] * 16)))),
        ]
    )


def user_step(random: Random) -> tuple[str, Step]:
    def path() -> bytes:
        return b"/".join(random.choices(NAMES, k=random.choice([1, 1, 2, 2, 3])))

    one, other = path(), path()
    slot, offset = random.randrange(HANDLES), random.randrange(2)
    content = random.randbytes(random.randrange(5))
    mode = random.choice([0o600, 0o755, 0o000])
    name, step = random.choice(
        [
            ("write", lambda at: at.bench.user.write(one, content)),
            ("rewrite", lambda at: at.bench.user.write(one, content, keeps_bytes=True)),
            ("save", lambda at: at.bench.user.save(one, content)),
            ("open", lambda at: open_writer(at, slot, one, truncates=bool(offset))),
            ("open", lambda at: open_writer(at, slot, one, truncates=bool(offset))),
            ("go on", lambda at: go_on_writing(at, slot, content)),
            ("go on", lambda at: go_on_writing(at, slot, content)),
            ("close", lambda at: close_writer(at, slot)),
            ("mkdir", lambda at: at.bench.user.mkdir(one)),
            ("mkdir", lambda at: at.bench.user.mkdir(one)),
            ("symlink", lambda at: at.bench.user.symlink(one, TARGET)),
            ("link", lambda at: at.bench.user.link(one, other)),
            ("rename", lambda at: at.bench.user.rename(one, other)),
            ("rename", lambda at: at.bench.user.rename(one, other)),
            ("exchange", lambda at: at.bench.user.exchange(one, other)),
            ("unlink", lambda at: at.bench.user.unlink(one)),
            ("rmdir", lambda at: at.bench.user.rmdir(one)),
            ("rmtree", lambda at: at.bench.user.rmtree(one)),
            ("chmod", lambda at: at.bench.user.chmod(one, mode)),
            ("utime", lambda at: at.bench.user.utime(one, 7)),
        ]
    )
    return f"user {name} {one!r} {other!r}", step


def nodes(at: World) -> object:
    return {
        path: (node.kind, node.content, node.mode) for path, node in at.bench.user.tree().items()
    }


def told(noticed: Noticed) -> object:
    return frozenset(noticed.marks), noticed.is_overflown, noticed.is_root_gone


@pytest.mark.parametrize("seed", range(20))
async def test_random_calls_have_the_same_outcome(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    history: list[str] = []
    refusals = 0
    with world(PosixBench(tmp_path)) as real, world(SimulatedBench()) as simulated:
        for at in (real, simulated):
            at.watcher.add(at.handles[0], ROOT_ID)
        for _ in range(STEPS):
            name, step = random.choice([engine_step, user_step])(random)
            history.append(name)
            wanted = outcome(step, real)
            assert outcome(step, simulated) == wanted, history[-3:]
            assert nodes(simulated) == nodes(real), history[-3:]
            assert told(simulated.watcher.take()) == told(real.watcher.take()), history[-3:]
            refusals += isinstance(wanted, str)
    assert 0 < refusals < STEPS, "the calls must both succeed and fail"
