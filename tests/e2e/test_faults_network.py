"""Links that go silent, break anywhere, or are slow: noticed, resumed, nothing torn or starved."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.bad_network import bad_network, random_budgets
from tests.support.limits import assert_no_hot_loop, heal
from tests.support.mounting import benching
from tests.support.realtree import MIB, digest_of_file, write_random
from tests.support.wait import wait_until

pytestmark = pytest.mark.process
slow = pytest.mark.slow

NOTICED_S_MAX = 60.0
"""What users are told of a link that is dead and does not say so."""

LARGE_BYTES = 10 * MIB


def assert_no_conflicts(tree: Collection[bytes]) -> None:
    assert not [path for path in tree if b"conflict" in path]


@slow
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "in a transfer"])
def test_a_link_that_dies_without_a_word(tmp_path: Path, is_busy: bool) -> None:
    with benching(tmp_path) as bench, bad_network(bench.server.address) as network:
        ann, ben = bench.add("ann", address=network.address), bench.add("ben")
        for mount in (ann, ben):
            mount.start()
        (ann.root / "file").write_bytes(b"first")
        bench.assert_equal()
        if is_busy:
            passed = network.bytes_passed
            write_random(ann.root / "large", LARGE_BYTES, 1)
            wait_until(lambda: network.bytes_passed > passed + LARGE_BYTES // 4, "a transfer")
        network.lose()
        started_s = time.monotonic()
        (ann.root / "file").write_bytes(b"second")
        (ben.root / "of ben").write_bytes(b"of ben")
        ann.wait_for(lambda status: not status.is_connected, "to notice", timeout_s=NOTICED_S_MAX)
        took_s = time.monotonic() - started_s
        assert took_s < NOTICED_S_MAX
        assert ann.status().connection_error is not None
        assert (ben.root / "file").read_bytes() == b"first"
        assert_no_hot_loop(ann.process)
        network.come_back()
        # The server may still hold the lock of the STORE whose link died, for half a minute.
        tree = heal(bench, ann)
        assert (ben.root / "file").read_bytes() == b"second"
        assert (ann.root / "of ben").read_bytes() == b"of ben"
        assert len(tree) == 2 + is_busy
        print(f"noticed after {took_s:.1f} s")


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=slow)])
def test_a_link_that_breaks_after_any_number_of_bytes(tmp_path: Path, rounds: int) -> None:
    """A large file goes on over the breaks; small ones and edits arrive whole and once."""
    with benching(tmp_path) as bench, bad_network(bench.server.address) as network:
        network.budgets = random_budgets(rounds, 4 * MIB)
        ann = bench.add("ann", address=network.address)
        ben = bench.add("ben", address=network.address)
        write_random(ann.root / "up", LARGE_BYTES, 1)
        write_random(ben.root / "down", LARGE_BYTES, 2)
        for mount in (ann, ben):
            mount.start()
        for round_ in range(rounds):
            for number in range(20):
                (ann.root / f"of ann {number}").write_bytes(b"%d %d" % (round_, number))
                (ben.root / f"of ben {round_} {number}").write_bytes(b"%d %d" % (round_, number))
            before = network.breaks
            wait_until(lambda b=before: network.breaks > b, "a break", timeout_s=60)  # type: ignore[misc]
            network.reset()
        network.budgets = None
        network.reset()
        tree = bench.assert_equal()
        assert_no_conflicts(tree)
        assert len(tree) == 2 + 20 + 20 * rounds
        assert network.breaks >= rounds
        for name, seed in (("up", 1), ("down", 2)):
            whole = digest_of_file(write_random(tmp_path / name, LARGE_BYTES, seed))
            assert tree[name.encode()].content == whole


@slow
def test_small_files_are_not_starved_on_a_slow_link(tmp_path: Path) -> None:
    with benching(tmp_path) as bench, bad_network(bench.server.address) as network:
        ann, ben = bench.add("ann", address=network.address), bench.add("ben")
        for mount in (ann, ben):
            mount.start()
        bench.assert_equal()
        network.delay_s = 0.02
        write_random(ann.root / "large up", 4 * LARGE_BYTES, 1)
        write_random(ben.root / "large down", 4 * LARGE_BYTES, 2)
        ann.wait_for(lambda status: len(status.transfers) >= 2, "both transfers")
        for number in range(2):
            (ann.root / f"small up {number}").write_bytes(b"%d" % number)
            (ben.root / f"small down {number}").write_bytes(b"%d" % number)
            wait_until((ben.root / f"small up {number}").exists, "a small file, upwards")
            wait_until((ann.root / f"small down {number}").exists, "a small file, downwards")
        assert not (ben.root / "large up").exists(), "they overtook it"
        assert not (ann.root / "large down").exists(), "they overtook it"
        network.delay_s = 0.0
        tree = bench.assert_equal()
        assert len(tree) == 6
