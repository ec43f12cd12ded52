"""Users act between any two file operations of the scanner, and local becomes what the disk has.

Now and then an operation of the scanner fails, which must not look like something that is gone.
Once with the marks of the watcher alone, and again after a last look at everything, which then has
nothing to correct.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from syncline.client.mount.scan import DEFAULT_BUDGET, Budget
from syncline.core.identity import ROOT_ID, EntryId
from tests.support.scanning import World, make_world
from tests.support.simulation.disk import Operation
from tests.support.simulation.inodes import Inode
from tests.support.simulation.user_side import Writer
from tests.support.simulation.watcher import SimulatedWatcher

NAMES = [b"a", b"b", b"c"]
STEP_NS = 50_000
"""What each file operation of the scanner takes."""


@dataclass(frozen=True, slots=True)
class Act:
    """What a user does to one or two paths; `gap`: file operations before it, `ms`: time too."""

    verb: str
    path: bytes
    other: bytes
    gap: int
    ms: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What the machine is like."""

    budget: Budget = DEFAULT_BUDGET
    is_reading_late: bool = False
    has_leases: bool = True
    has_births: bool = True


KINDS = [
    Kind(),
    Kind(is_reading_late=True),
    Kind(budget=Budget(readings=2, names=3), is_reading_late=True),
    Kind(has_leases=False),
    Kind(has_births=False, budget=Budget(readings=3, names=7)),
]


@dataclass
class Users:
    """Carries out the acts one by one, between the operations of the scanner or when it rests."""

    world: World
    acts: deque[Act]
    kind: Kind
    writer: Writer | None = None
    serial: int = 0
    left: int = 0
    done: int = 0
    between: int = 0
    is_untold: bool = False
    """A file with several names was changed. Inotify tells of one name, or, where the writer's own
    name is gone, of none; who finds that one gone cannot know what else changed."""
    verbs: dict[str, Callable[[Act], None]] = field(init=False)

    def __post_init__(self) -> None:
        user = self.world.user
        self.verbs = {
            "write": lambda act: user.write(act.path, self.content()),
            "save": lambda act: user.save(act.path, self.content()),
            "vim": self.save_like_vim,
            "open": self.open,
            "append": self.append,
            "close": self.close,
            "mkdir": lambda act: user.mkdir(act.path),
            "tree": self.make_tree,
            "rename": lambda act: user.rename(act.path, act.other),
            "exchange": lambda act: user.exchange(act.path, act.other),
            "unlink": lambda act: user.unlink(act.path),
            "rmtree": lambda act: user.rmtree(act.path),
            "symlink": lambda act: user.symlink(act.path, self.content()),
            "fifo": lambda act: user.mkfifo(act.path),
            "link": lambda act: user.link(act.path, act.other),
            "chmod": lambda act: user.chmod(act.path, 0o700 + len(act.other)),
            "utime": lambda act: user.utime(act.path, len(act.other) * 10**9),
            "out": lambda act: self.world.outside.rename(b"m/" + act.path, b"kept"),
            "in": lambda act: self.world.outside.rename(b"kept", b"m/" + act.path),
            "cycle": self.invert,
            "fail": lambda act: self.world.disk.fail(ERRORS[len(act.path) % len(ERRORS)]),
        }

    def content(self) -> bytes:
        self.serial += 1
        return b"content %d" % self.serial

    def save_like_vim(self, act: Act) -> None:
        user = self.world.user
        user.rename(act.path, act.path + b"~")
        user.write(act.path, self.content())
        user.unlink(act.path + b"~")

    def make_tree(self, act: Act) -> None:
        user = self.world.user
        user.mkdir(act.path)
        user.write(act.path + b"/a", self.content())
        user.mkdir(act.path + b"/b")
        user.write(act.path + b"/b/c", self.content())

    def invert(self, act: Act) -> None:
        """Move a directory out of the one that it is in, and that one into it."""
        user = self.world.user
        above = act.path.rpartition(b"/")[0]
        user.rename(act.path, b"spare")
        user.rename(above, b"spare/c")
        user.rename(b"spare", act.other)

    def open(self, act: Act) -> None:
        self.close(act)
        self.writer = self.world.user.open_writer(act.path, truncates=len(act.other) > 1)

    def append(self, act: Act) -> None:
        if self.writer is not None:
            self.note_writing(self.writer)
            self.writer.write(self.content())

    def close(self, act: Act) -> None:
        if self.writer is not None:
            self.note_writing(self.writer)
            self.writer.close()
            self.writer = None

    def note_writing(self, writer: Writer) -> None:
        opened = writer._opened
        self.is_untold |= opened.inode.links > opened.dentry.is_attached

    def note_names(self, inode: Inode) -> None:
        self.is_untold |= inode.links > 1 and not inode.is_directory

    def aimed(self, act: Act) -> Act:
        """Let an act that needs something find something."""
        there = sorted(self.world.user.tree())
        if act.verb in MAKERS or act.path in there or not there:
            return act
        at = there[sum(act.path) % len(there)]
        other = act.other
        if act.verb == "exchange" and other not in there:
            other = there[sum(other) % len(there)]
        return replace(act, path=at, other=other)

    def before(self, operation: Operation) -> None:
        self.world.disk.clock_ns += STEP_NS
        self.forget_births()
        if not self.acts:
            return
        if self.left > 0:
            self.left -= 1
            return
        self.between += 1
        self.act()

    def forget_births(self) -> None:
        """Be a file system that keeps no birth times."""
        if not self.kind.has_births:
            todo = [self.world.disk.top]
            for inode in todo:
                inode.born_ns = 0
                todo.extend(dentry.inode for dentry in inode.entries.values())

    def act(self) -> None:
        act = self.acts.popleft()
        self.world.disk.clock_ns += act.ms * 1_000_000
        try:
            aimed = self.aimed(act)
            if act.verb in CHANGERS and self.world.user.exists(aimed.path):
                self.note_names(self.world.user._find(aimed.path).inode)
            self.verbs[act.verb](aimed)
            self.done += 1
        except BlockingIOError:
            # A lease: the writer waits until it is let go.
            self.acts.appendleft(replace(act, gap=0))
        except OSError:
            pass
        self.left = self.acts[0].gap if self.acts else 0


VERBS = [
    "write", "save", "vim", "open", "append", "close", "mkdir", "tree", "rename", "rename",
    "rename", "exchange", "exchange", "unlink", "rmtree", "symlink", "fifo", "link", "chmod",
    "utime", "out", "in", "cycle", "fail",
]  # fmt: skip
ERRORS = [errno.EIO, errno.EACCES, errno.EMFILE]
CHANGERS = {"write", "open", "chmod", "utime"}
MAKERS = {"fail", "write", "append", "close", "mkdir", "tree", "symlink", "fifo", "in"}
"""What needs nothing to be at its path."""

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
acts = st.builds(
    Act,
    st.sampled_from(VERBS),
    paths,
    paths,
    st.integers(0, 12),
    st.sampled_from([0, 0, 0, 1, 5, 30, 200]),
)


def watched(world: World) -> set[EntryId]:
    assert isinstance(world.scanned.watcher, SimulatedWatcher)
    return set(world.scanned.watcher._serials)


def directories(world: World) -> set[EntryId]:
    local = world.scanned.local().values()
    return {ROOT_ID, *(id for id, seen in local if seen.state.is_directory)}


def play(before: list[Act], during: list[Act], kind: Kind) -> Users:
    """Let users act before the first look, and while the scanner works; check what comes out."""
    world = make_world(budget=kind.budget, is_reading_late=kind.is_reading_late)
    world.disk.has_leases = kind.has_leases
    users = Users(world, deque(before), kind)
    while users.acts:
        users.act()
    world.pass_time(1)
    users.acts.extend(during)
    users.left = during[0].gap if during else 0
    world.disk.before = users.before
    scanned = world.scanned
    scanned.look_everywhere()
    while users.acts:
        # What is left was to come when the scanner had nothing to do any more.
        users.act()
        scanned.rest(most_s=users.acts[0].ms / 1000 if users.acts else 0)
    users.close(Act("close", b"", b"", 0, 0))
    scanned.rest()
    assert users.is_untold or scanned.shown() == world.expected(), "by marks alone"
    assert watched(world) == directories(world), "each directory has its watch, and no other"
    with scanned.state.session() as session:
        assert not any(not held.is_ignored for held in session.held().values())
    ids = {path: id for path, (id, _) in scanned.local().items()}
    scanned.look_everywhere()
    assert scanned.shown() == world.expected()
    assert watched(world) == directories(world), "each directory has its watch, and no other"
    if not users.is_untold:
        assert {path: id for path, (id, _) in scanned.local().items()} == ids
    if not any(act.verb == "fail" for act in during):
        assert world.disk.open_handles == 1, "only the root stays open"
    return users


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(st.lists(acts, max_size=10), st.lists(acts, max_size=25), st.sampled_from(KINDS))
def test_local_becomes_what_the_disk_has(before: list[Act], during: list[Act], kind: Kind) -> None:
    users = play(before, during, kind)
    event(f"acts between two operations: {min(users.between, 10)}")
    assert users.done <= len(before) + len(during)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(acts, max_size=12), st.lists(acts, max_size=40), st.sampled_from(KINDS))
def test_local_becomes_what_the_disk_has_in_thousands_of_races(
    before: list[Act], during: list[Act], kind: Kind
) -> None:
    assert play(before, during, kind).world.expected() is not None
