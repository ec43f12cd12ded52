"""The benchmarks' checks can fail, and a run of some rows leaves the figures of the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import chart, results
from benchmarks.context import QUICK, Context
from benchmarks.measure import Trouble
from benchmarks.peers.site import Program, Site, missing_tool
from benchmarks.results import OURS, Column, Fragment, Goal, Table
from benchmarks.rows.doing import is_complete
from benchmarks.run import budgets, chosen, programs_of
from benchmarks.trees import check_equal, make_files, make_tree


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    left, right = tmp_path / "left", tmp_path / "right"
    for each in (left, right):
        make_tree(each, 60)
    return left, right


def first(directory: Path, is_wanted: Callable[[Path], bool]) -> Path:
    return next(path for path in sorted(directory.rglob("*")) if is_wanted(path))


def is_text(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def change_a_byte(right: Path) -> None:
    path = first(right, is_text)
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def cut_a_byte(right: Path) -> None:
    path = first(right, is_text)
    path.write_bytes(path.read_bytes()[:-1])


def leave_out(right: Path) -> None:
    first(right, is_text).unlink()


def add(right: Path) -> None:
    (right / "more").mkdir()


def turn_a_link(right: Path) -> None:
    link = first(right, Path.is_symlink)
    link.unlink()
    link.symlink_to("elsewhere")


def change_a_mode(right: Path) -> None:
    first(right, is_text).chmod(0o600)


def put_a_directory(right: Path) -> None:
    path = first(right, is_text)
    path.unlink()
    path.mkdir()


def test_equal_trees_are_equal_whatever_a_program_keeps_under_hidden_names(
    trees: tuple[Path, Path],
) -> None:
    (trees[1] / ".stfolder").mkdir()
    check_equal(*trees)


@pytest.mark.parametrize(
    "act",
    [change_a_byte, cut_a_byte, leave_out, add, turn_a_link, change_a_mode, put_a_directory],
)
def test_trees_that_differ_are_told_apart(
    trees: tuple[Path, Path], act: Callable[[Path], None]
) -> None:
    act(trees[1])
    with pytest.raises(Trouble):
        check_equal(*trees)


def test_a_tree_is_complete_when_its_last_entry_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make_files(source, 3)
    ask = is_complete(source, target)
    assert not ask()
    make_files(target, 2)
    assert not ask()
    (target / "0000" / "000002").write_bytes(b"2\n")
    assert ask()


# -- turns ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Nobody:
    """A program that does nothing."""

    name: str
    why_absent: str = ""
    is_by_hand: bool = False
    is_one_way: bool = False

    def absent(self) -> str:
        return self.why_absent

    def version(self) -> str:
        return "0"

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        yield Site(home, (home,), {})


def context(home: Path, *programs: Program, budget_s: float = 60.0) -> Context:
    return Context(home, "memory", replace(QUICK, repetitions=3), programs, budget_s)


def test_programs_take_turns_and_those_that_are_not_here_are_named(tmp_path: Path) -> None:
    turns = []
    table = Table("work", (Column("s"),))
    run = context(tmp_path, Nobody("one"), Nobody("two"), Nobody("three", "not installed: x"))
    run.rounds([table], lambda program, home, number: turns.append((number, program.name)))
    assert turns == [(number, name) for number in range(3) for name in ("one", "two")]
    assert table.words == {"three": "not installed: x"}
    assert "| three | not installed: x |" in table.render()


def test_when_the_time_is_over_everyone_has_had_one_turn(tmp_path: Path) -> None:
    turns = []
    run = context(tmp_path, Nobody("one"), Nobody("two"), budget_s=0.0)
    run.rounds([Table("work", ())], lambda program, home, number: turns.append(program.name))
    assert turns == ["one", "two"]


def test_a_program_with_trouble_gets_a_word_and_ours_makes_the_run_fail(tmp_path: Path) -> None:
    table = Table("work", (Column("s"),))
    run = context(tmp_path, Nobody(OURS), Nobody("peer"))

    def work(program: Program, home: Path, number: int) -> None:
        raise Trouble(f"{program.name} lost a file")

    run.rounds([table], work)
    assert table.words == {OURS: f"{OURS} lost a file", "peer": "peer lost a file"}
    assert run.troubles == [f"work: {OURS} lost a file"]


def test_what_is_not_installed_is_named_with_its_package() -> None:
    assert missing_tool("no-such-tool", "its-package").endswith("apt-get install its-package")
    assert not missing_tool(os.path.basename("/bin/sh"), "dash")


def test_time_is_shared_by_what_rows_take() -> None:
    shared = budgets(["large", "stores"], ["memory", "disk"], 10)
    assert 2 * sum(shared.values()) == pytest.approx(600)
    assert shared["large"] > shared["stores"]


def test_unknown_rows_are_refused() -> None:
    assert chosen("b,a", ["a", "b", "c"], "row") == ["a", "b"]
    with pytest.raises(SystemExit, match="no such row: d"):
        chosen("a,d", ["a"], "row")


def test_in_quick_mode_peers_that_watch_are_in_some_rows_alone() -> None:
    everyone: list[Program] = [Nobody(OURS), Nobody("watches"), Nobody("cp", is_by_hand=True)]
    assert programs_of("small", everyone, QUICK) == everyone
    assert [each.name for each in programs_of("tree", everyone, QUICK)] == [OURS, "cp"]


# -- results -------------------------------------------------------------------------


def fragment(row: str, ours: float, theirs: float) -> Fragment:
    table = Table(row.title(), (Column("s"),), "s", (Goal("s", 0.5, "peer"), Goal("s", 9)))
    for add_s in (0.0, 1.0, 2.0):
        table.add(OURS, {"s": ours + add_s})
    table.add("peer", {"s": theirs})
    table.words["other"] = "not installed"
    return Fragment(row, "memory", "a machine", {OURS: "1"}, [table])


def test_a_run_of_one_row_leaves_the_others(tmp_path: Path) -> None:
    for each in (fragment("one", 1, 4), fragment("two", 3, 8), fragment("one", 7, 4)):
        results.save(each, tmp_path)
    found = results.load_all(tmp_path, ["two", "one"], ["memory", "disk"])
    assert found == [fragment("two", 3, 8), fragment("one", 7, 4)]


def test_results_show_medians_ratios_and_what_must_be() -> None:
    text = results.render([fragment("one", 1, 4)], has_chart=True)
    assert "| Syncline | 2.00 (1.00-3.00) | 1.00 |" in text
    assert "| peer | 4.00 | 2.00 |" in text
    assert "| other | not installed |  |" in text
    assert "- Must: s: at most 0.5 x peer. Here: 0.5 x." in text
    assert "- Must: s: at most 9. Here: 2." in text
    assert "a machine; Syncline 1" in text


def test_a_goal_without_its_peer_says_nothing() -> None:
    assert Goal("s", 1, "absent").words(fragment("one", 1, 4).tables[0].samples) == ""


def test_the_chart_is_well_formed_and_names_the_peer() -> None:
    drawn = chart.draw([fragment("one & two", 1, 4)])
    texts = [each.text for each in ElementTree.fromstring(drawn).iter() if each.text]
    assert "peer" in texts
    assert "2 x" in texts
