"""STORE from local files: what arrives, what is refused, what is retried."""

from __future__ import annotations

import os
import resource
import socket
import threading
from pathlib import Path

import pytest

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.client import reading, shipping
from syncline.client import store as store_module
from syncline.client.targets import Source
from syncline.client.walk import Found, Lost
from syncline.core.entries import Kind
from syncline.core.identity import digest_of
from syncline.core.names import RelPath
from syncline.errors import Invalid, Locked, NoSpace, Unavailable
from syncline.ports.report import PathOutcome, Result
from tests.support.links import Client, ScriptedLink, failing, only_error, results
from tests.support.serving import BOB, SeededIds, propose
from tests.support.trees import put_directory, put_file

BROKEN = Unavailable("the connection broke")


def make(path: Path, content: bytes = b"content", *, mode: int = 0o644, mtime: int = 10**9) -> Path:
    """Make a file that is older than the clock's grain, so that reading it need not wait."""
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(mtime, mtime))
    return path


# -- what arrives ------------------------------------------------------------


async def test_a_tree_arrives_with_modes_times_and_links(client: Client, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "empty" / "inner").mkdir(parents=True)
    (top / "empty").chmod(0o750)
    make(top / "run.sh", b"#!/bin/sh\n", mode=0o755, mtime=5)
    make(top / "nothing", b"", mode=0o600)
    for name, mtime in (("old", -(10**18)), ("late", 5 * 10**18)):
        make(top / name, name.encode(), mtime=mtime)
    os.symlink("/absolute/nowhere", top / "absolute")
    os.symlink("loop", top / "loop")
    os.symlink("..", top / "up")
    os.utime(top / "loop", ns=(7, 7), follow_symlinks=False)
    outcomes = await client.store(top)
    tree = await client.tree()
    assert set(results(outcomes).values()) == {"stored"}
    assert set(results(outcomes)) == set(tree)
    assert (tree[b"top/run.sh"].mode, tree[b"top/run.sh"].mtime_ns) == (0o755, 5)
    assert tree[b"top/nothing"].size == 0 and tree[b"top/nothing"].mode == 0o600
    assert tree[b"top/old"].mtime_ns == -(10**18) and tree[b"top/late"].mtime_ns == 5 * 10**18
    assert tree[b"top/absolute"].target == b"/absolute/nowhere"
    assert (tree[b"top/loop"].target, tree[b"top/loop"].mtime_ns) == (b"loop", 7)
    assert tree[b"top/empty"].mode == 0o750 and tree[b"top/empty/inner"].kind is Kind.DIRECTORY


NAMES = [
    b"\xff\xfe",
    b"new\nline\t\x1b[31m",
    b"x" * 255,
    b"-rf",
    b"...",
    b"back\\slash",
    b"caf\xc3\xa9",
]


async def test_every_name_that_linux_has_is_carried(client: Client, tmp_path: Path) -> None:
    top = os.fsencode(tmp_path)
    for name in NAMES:
        make(tmp_path / os.fsdecode(name), name)
    outcomes = await client.store(top + b"/.")
    assert set(results(outcomes)) == set(NAMES) == set(await client.tree())


async def test_a_large_file_travels_in_chunks_and_only_once(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    content = os.urandom(3_000_000)
    large = make(tmp_path / "large", content)
    outcomes = await client.store(large)
    assert results(outcomes) == {b"large": "stored"}
    first = len(link.sent)
    assert first > 3
    make(large, b"a few bytes in front" + content)
    [outcome] = await client.store(large)
    assert outcome.replaced == 1 and outcome.size == len(content) + 20
    assert len(link.sent) - first <= 3


async def test_a_manifest_in_pieces_travels_too(client: Client, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(80 * 1024 * 1024)
        file.write(b"head")
    outcomes = await client.store(sparse)
    assert results(outcomes) == {b"sparse": "stored"}
    content = (await client.tree())[b"sparse"].content
    assert content is not None and content.depth == 1 and content.size == 80 * 1024 * 1024


async def test_what_is_the_same_needs_no_traffic(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    (tmp_path / "top").mkdir()
    make(tmp_path / "top" / "a")
    os.symlink("a", tmp_path / "top" / "l")
    await client.store(tmp_path / "top")
    count = link.count("store")
    again = await client.store(tmp_path / "top")
    assert set(results(again).values()) == {"unchanged"}
    assert link.count("store") == count
    assert {outcome.revision for outcome in again} == {1}


async def test_a_mode_or_time_alone_is_a_change_without_content(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    file = make(tmp_path / "f", os.urandom(200_000))
    await client.store(file)
    sent = len(link.sent)
    file.chmod(0o755)
    [outcome] = await client.store(file)
    assert (outcome.result, outcome.revision, outcome.replaced) == (Result.STORED, 2, 1)
    os.utime(file, ns=(3, 3))
    [outcome] = await client.store(file)
    assert outcome.revision == 3 and len(link.sent) == sent


async def test_missing_parents_are_made(client: Client, tmp_path: Path) -> None:
    outcomes = await client.store(make(tmp_path / "f"), to=b"a/b/c")
    tree = await client.tree()
    assert results(outcomes) == {b"a/b/c": "stored"}
    assert [tree[path].mode for path in (b"a", b"a/b")] == [0o755, 0o755]


async def test_a_directory_merges_and_takes_the_mode(client: Client, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "d").mkdir(parents=True)
        make(tmp_path / name / "d" / name)
    await client.store(tmp_path / "one" / "d")
    (tmp_path / "two" / "d").chmod(0o700)
    outcomes = await client.store(tmp_path / "two" / "d")
    tree = await client.tree()
    assert set(tree) == {b"d", b"d/one", b"d/two"} and tree[b"d"].mode == 0o700
    assert results(outcomes) == {b"d": "stored", b"d/two": "stored"}


async def test_many_files_go_many_to_a_proposal(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    for number in range(2500):
        (tmp_path / f"{number % 7}").mkdir(exist_ok=True)
        make(tmp_path / f"{number % 7}" / f"{number}", b"%d" % number)
    outcomes = await client.store(os.fsencode(tmp_path) + b"/.")
    assert len(outcomes) == 2507 and set(results(outcomes).values()) == {"stored"}
    assert len(await client.tree()) == 2507
    assert link.count("store") == 3


async def test_a_deep_tree_is_walked_with_few_descriptors(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "top" / Path(*["d"] * 150)
    path.mkdir(parents=True)
    make(path / "f")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 20, hard))
    try:
        outcomes = await client.store(tmp_path / "top")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(outcomes) == 152 and set(results(outcomes).values()) == {"stored"}


def open_descriptors() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


# -- what cannot be read -----------------------------------------------------


async def test_what_is_no_file_fails_and_the_others_go_on(client: Client, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    make(top / "file")
    outcomes = await client.store(top)
    words = results(outcomes)
    assert words[b"top/fifo"] == words[b"top/socket"] == "local_failure"
    assert words[b"top/file"] == "stored"
    assert set(await client.tree()) == {b"top", b"top/file"}


async def test_a_read_error_is_told_and_deletes_nothing(client: Client, tmp_path: Path) -> None:
    outcomes = await client.store(b"/proc/self/mem", make(tmp_path / "f"), tmp_path / "none")
    words = results(outcomes)
    assert words == {b"mem": "local_failure", b"f": "stored", b"none": "local_failure"}


async def test_a_fifo_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    found = Found(
        os.fsencode(tmp_path), (b"f",), RelPath.parse(b"f"), Kind.FILE, 0o644, 0, 0, is_top=True
    )
    [lost] = reading.prepare([found], FastCdcChunker())
    assert isinstance(lost, Lost) and "not a regular file" in lost.error.message


async def test_a_link_in_the_place_of_a_directory_is_not_followed(
    client: Client, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    make(secret / "f")
    top = tmp_path / "top"
    top.mkdir()
    os.symlink(secret, top / "d")
    outcomes = await client.store(top)
    assert (await client.tree())[b"top/d"].kind is Kind.LINK
    assert set(results(outcomes)) == {b"top", b"top/d"}


@pytest.mark.parametrize("size", [30_000, 2_500_000])
async def test_a_file_that_never_holds_still_is_busy_and_never_a_mixture(
    client: Client, tmp_path: Path, size: int
) -> None:
    path = make(tmp_path / "f", bytes(size))
    ends = threading.Event()

    def write() -> None:
        fill = 0
        fd = os.open(path, os.O_WRONLY)
        while not ends.is_set():
            fill = (fill + 1) % 256
            os.pwrite(fd, bytes([fill]) * size, 0)
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            [outcome] = await client.store(path)
            if outcome.result is Result.FAILED:
                assert outcome.error is not None and outcome.error.fields["reason"] == "busy"
            else:
                whole = {digest_of(bytes([fill]) * size) for fill in range(256)}
                assert (await client.tree())[b"f"].digest in whole
    finally:
        ends.set()
        writer.join()


async def test_a_file_that_somebody_has_open_is_stored_when_it_is_quiet(
    client: Client, tmp_path: Path
) -> None:
    path = make(tmp_path / "log", b"line\n" * 100)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        outcomes = await client.store(path)
    finally:
        os.close(fd)
    assert results(outcomes) == {b"log": "stored"}


def test_one_who_has_a_file_open_for_writing_is_seen(tmp_path: Path) -> None:
    path = make(tmp_path / "f")
    fd = os.open(path, os.O_RDONLY)
    writer = os.open(path, os.O_WRONLY)
    is_open = reading._is_open_for_writing(fd)
    os.close(writer)
    assert is_open and not reading._is_open_for_writing(fd)
    os.close(fd)


async def test_a_file_that_changes_while_it_travels_is_read_again(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    path = make(tmp_path / "f", os.urandom(3_000_000))
    newer = os.urandom(3_000_000)

    async def rewrite() -> None:
        make(path, newer, mtime=2 * 10**9)

    link.before["store"] = [rewrite]
    outcomes = await client.store(path)
    assert results(outcomes) == {b"f": "stored"}
    assert (await client.tree())[b"f"].digest == digest_of(newer)


async def test_the_reserved_name_and_an_over_long_path_are_told(
    client: Client, tmp_path: Path
) -> None:
    make(tmp_path / ".syncline")
    outcomes = await client.store(os.fsencode(tmp_path) + b"/.")
    assert only_error(outcomes).code == "invalid"
    deep = b"/".join([b"d" * 200] * 20)
    outcomes = await client.store_sources(
        [Source(os.fsencode(make(tmp_path / "f")), RelPath.parse(deep + b"/" + b"x" * 75))]
    )
    assert set(results(outcomes).values()) == {"stored"}


# -- what the server has -----------------------------------------------------


async def test_another_kind_is_refused_and_named(client: Client, tmp_path: Path) -> None:
    await client.store(make(tmp_path / "x"))
    (tmp_path / "top" / "x" / "y").mkdir(parents=True)
    outcomes = await client.store(tmp_path / "top" / "x", to=b"x")
    assert results(outcomes) == {b"x": "exists"}
    assert "a file stands at 'x'" in only_error(outcomes).message
    outcomes = await client.store(make(tmp_path / "f"), to=b"x/below")
    assert results(outcomes) == {b"x/below": "exists"}


async def test_if_revision_holds_or_refuses(client: Client, tmp_path: Path) -> None:
    path = make(tmp_path / "f")
    assert results(await client.store(path, if_revision=0)) == {b"f": "stored"}
    outcomes = await client.store(path, if_revision=0)
    assert only_error(outcomes).code == "stale" and "exists at revision 1" in str(
        only_error(outcomes)
    )
    make(path, b"newer")
    assert only_error(await client.store(path, if_revision=7)).code == "stale"
    [outcome] = await client.store(path, if_revision=1)
    assert (outcome.result, outcome.replaced) == (Result.STORED, 1)
    with pytest.raises(Invalid):
        await client.store(tmp_path, if_revision=1)


async def test_if_revision_is_not_retried_when_another_comes_first(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    path = make(tmp_path / "f")
    newer = make(tmp_path / "newer", b"of another")

    async def overtake() -> None:
        await other.store(newer, to=b"f")

    link.before["store"] = [overtake]
    assert only_error(await client.store(path, if_revision=0)).code == "stale"
    link.before["store"] = [overtake]
    make(newer, b"and again")
    assert only_error(await client.store(path, if_revision=1)).code == "stale"


async def test_without_if_revision_it_builds_on_what_is_there_at_that_moment(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    path = make(tmp_path / "f", b"mine")
    theirs = make(tmp_path / "theirs", b"theirs")

    async def overtake() -> None:
        make(theirs, os.urandom(10))
        await other.store(theirs, to=b"f")

    link.before["store"] = [overtake, overtake]
    [outcome] = await client.store(path)
    assert (outcome.result, outcome.revision, outcome.replaced) == (Result.STORED, 3, 2)


async def test_a_directory_made_meanwhile_is_merged_into(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name / "d" / "e").mkdir(parents=True)
        make(tmp_path / name / "d" / "e" / name)

    async def overtake() -> None:
        await other.store(tmp_path / "theirs" / "d")

    link.before["store"] = [overtake]
    outcomes = await client.store(tmp_path / "mine" / "d")
    assert set(await client.tree()) == {b"d", b"d/e", b"d/e/mine", b"d/e/theirs"}
    assert results(outcomes) == {b"d": "unchanged", b"d/e": "unchanged", b"d/e/mine": "stored"}


async def test_a_parent_deleted_meanwhile_is_made_again(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    await client.store(tmp_path / "d", to=b"a/d")
    path = make(tmp_path / "f")

    async def remove() -> None:
        await other.delete(b"a", is_recursive=True)

    link.before["store"] = [remove]
    outcomes = await client.store(path, to=b"a/d/f")
    assert results(outcomes) == {b"a/d/f": "stored"}


async def test_a_directory_that_becomes_a_file_meanwhile_fails_for_all_below(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path / "d" / "f")
    blocker = make(tmp_path / "blocker")

    async def overtake() -> None:
        await other.store(blocker, to=b"d")

    link.before["store"] = [overtake]
    outcomes = await client.store(tmp_path / "d")
    assert results(outcomes) == {b"d": "exists"}


async def test_a_lock_names_its_holder(client: Client, link: ScriptedLink, tmp_path: Path) -> None:
    path = make(tmp_path / "f")
    inner = link.inner

    async def blocked(_: object) -> bytes:
        [outcome] = await client.store(path)
        assert isinstance(outcome.error, Locked)
        assert outcome.error.fields["holder"] == BOB.name
        raise Unavailable("enough seen")

    change = put_file("f", content=b"other content")
    with pytest.raises(Unavailable):
        await inner.store(propose(change, ids=SeededIds(3), author=BOB), blocked)


# -- broken connections ------------------------------------------------------


async def test_the_first_contact_fails_at_once(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    link.before["stat"] = [failing(BROKEN)]
    with pytest.raises(Unavailable):
        await client.store(make(tmp_path / "f"))
    assert link.count("stat") == 1


async def test_a_broken_store_is_repeated_with_its_op_id(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    link.before["store"] = [failing(BROKEN)]
    link.after["store"] = [failing(BROKEN)]
    outcomes = await client.store(make(tmp_path / "f"))
    assert results(outcomes) == {b"f": "stored"} and outcomes[0].revision == 1
    assert len({proposal.op_id for proposal in link.proposals}) == 1 and link.count("store") == 3


async def test_a_broken_transfer_sends_only_what_is_still_missing(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    link.error, link.send_cut = BROKEN, 4
    content = os.urandom(3_000_000)
    outcomes = await client.store(make(tmp_path / "f", content))
    assert results(outcomes) == {b"f": "stored"}
    assert link.count("store") == 2
    assert (await client.tree())[b"f"].digest == digest_of(content)


async def test_giving_up_leaves_an_outcome_for_each_path(
    client: Client, link: ScriptedLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BATCH_CHANGES_MAX", 2)
    client.retry_s = 0.0
    for number in range(6):
        make(tmp_path / f"{number}", b"%d" % number)
    link.after["store"] = [failing(BROKEN)]
    names = [tmp_path / f"{number}" for number in range(6)]
    words = results(await client.store(*names))
    assert set(words) == {b"%d" % number for number in range(6)}
    assert words[b"0"] == words[b"1"] == "unavailable"
    assert set(words.values()) <= {"unavailable", "stored"}


async def test_giving_up_during_a_new_look_tells_each_path_once(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    path = make(tmp_path / "f", b"mine")
    theirs = make(tmp_path / "theirs", b"theirs")
    client.retry_s = 0.0

    async def overtake() -> None:
        await other.store(theirs, to=b"f")
        link.before["stat"] = [failing(BROKEN)]

    link.before["store"] = [overtake]
    outcomes = await client.store(path, make(tmp_path / "g"))
    assert results(outcomes) == {b"f": "unavailable", b"g": "stored"}


async def test_a_full_server_ends_the_command_and_says_so(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    link.before["store"] = [failing(NoSpace("the disk of the server is full", where="server"))]
    outcomes = await client.store(make(tmp_path / "f"), make(tmp_path / "g"))
    assert results(outcomes) == {b"f": "no_space", b"g": "no_space"}


async def test_children_wait_for_the_batch_of_their_directory(
    client: Client, link: ScriptedLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BATCH_CHANGES_MAX", 3)
    for number in range(9):
        path = tmp_path / "top" / f"{number % 3}" / "deep"
        path.mkdir(parents=True, exist_ok=True)
        make(path / f"{number}")
    outcomes = await client.store(tmp_path / "top")
    assert set(results(outcomes).values()) == {"stored"}
    assert link.count("stat") == 1, "no proposal was refused"


async def test_progress_counts_each_byte_once(client: Client, tmp_path: Path) -> None:
    class Tally:
        expected = advanced = paths = finished = 0

        def expect(self, paths: int, size: int) -> None:
            self.paths += paths
            self.expected += size

        def advance(self, size: int) -> None:
            self.advanced += size

        def finish(self, outcome: PathOutcome) -> None:
            self.finished += 1

    tally = Tally()
    client.report = tally
    (tmp_path / "top").mkdir()
    make(tmp_path / "top" / "large", os.urandom(2_000_000))
    make(tmp_path / "top" / "small", b"small")
    await client.store(tmp_path / "top")
    assert tally.expected == tally.advanced == 2_000_005
    assert tally.paths == tally.finished == 3


async def test_a_directory_put_by_bare_changes_is_found_again(
    client: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    async def no_chunk(_: object) -> bytes:
        raise AssertionError("nothing travels")

    await link.inner.store(propose(put_directory("d"), ids=SeededIds(4), author=BOB), no_chunk)
    (tmp_path / "d").mkdir(mode=0o755)
    assert results(await client.store(tmp_path / "d", to=b"d")) == {b"d/d": "stored"}
    assert shipping.MADE_MODE == 0o755
