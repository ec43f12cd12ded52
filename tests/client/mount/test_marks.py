"""Marks on a clock of the test: what is due when, and what a look at everything leaves."""

from __future__ import annotations

from syncline.client.mount.marks import BURST, OPEN_LOOK_S, Marks
from syncline.client.mount.scan import Look, Waiting
from syncline.client.mount.scan_memory import MARGIN_S, NEW_S
from syncline.core.identity import ROOT_ID
from syncline.core.names import Name
from syncline.ports.watcher import Mark

PLACE = (ROOT_ID, Name(b"file"))
SEEN = Mark(*PLACE)
WRITTEN = Mark(*PLACE, is_written=True)
OPEN = Mark(*PLACE, is_open=True)


def marked(*marks: Mark, at_s: float = 10.0) -> Marks:
    """Return marks that came at once."""
    made = Marks()
    made.add(marks, at_s)
    return made


# -- when a place is due ---------------------------------------------------------------


def test_a_place_is_due_at_once() -> None:
    for mark in (SEEN, WRITTEN):
        assert marked(mark).take(10.0) == [Look(mark, 0.0)]


def test_who_only_writes_is_looked_at_a_moment_later_and_once() -> None:
    marks = marked(OPEN)
    for number in range(5):
        marks.add([OPEN], 10.0 + OPEN_LOOK_S * number / 5)
    assert marks.next_s() == 10.0 + OPEN_LOOK_S
    assert marks.take(10.0 + OPEN_LOOK_S * 0.99) == []
    [look] = marks.take(10.0 + OPEN_LOOK_S)
    assert look.mark == OPEN
    assert marks.next_s() is None


def test_who_closes_is_looked_at_at_once() -> None:
    marks = marked(OPEN)
    marks.add([WRITTEN], 10.25)
    assert marks.take(10.25) == [Look(WRITTEN, 0.0)]


# -- a burst ---------------------------------------------------------------------------


def burst(at_s: float = 10.0) -> Marks:
    """Return marks of which so many came at once that the next ones wait."""
    return marked(*(Mark(ROOT_ID, b"%d" % number) for number in range(BURST)), at_s=at_s)


def test_in_a_burst_a_place_is_looked_at_when_a_new_name_would_be_quiet() -> None:
    marks = burst()
    marks.add([WRITTEN], 10.0)
    assert SEEN.name not in {look.mark.name for look in marks.take(10.0)}
    [look] = marks.take(10.0 + NEW_S + MARGIN_S)
    assert (look.mark, look.quiet_s >= NEW_S) == (WRITTEN, True)


def test_in_a_burst_who_is_written_to_again_and_again_is_not_put_off() -> None:
    marks = burst()
    for step in range(10):
        marks.add([WRITTEN], 10.0 + NEW_S * step / 10)
    looks = marks.take(10.0 + NEW_S + MARGIN_S)
    assert [look.mark for look in looks if look.mark.name == SEEN.name] == [WRITTEN]


def test_after_a_burst_a_place_is_due_at_once_again() -> None:
    marks = burst()
    marks.take(10.0)
    marks.add([WRITTEN], 11.0)
    assert marks.take(11.0) == [Look(WRITTEN, 0.0)]


# -- a look at everything --------------------------------------------------------------


def test_a_look_at_everything_takes_the_place_of_marks() -> None:
    marks = marked(SEEN)
    marks.clear([])
    assert marks.is_idle
    assert marks.next_s() is None


def test_what_was_written_is_read_again_although_everything_is_looked_at() -> None:
    marks = marked(WRITTEN)
    marks.clear([])
    assert not marks.is_settled(10.0)
    assert marks.take(10.0) == [Look(WRITTEN, 0.0)]


def test_what_was_written_and_taken_comes_back_with_its_time() -> None:
    marks = marked(WRITTEN)
    looks = marks.take(11.0)
    assert marks.is_settled(10.0)
    marks.clear(looks)
    assert not marks.is_settled(10.0)
    assert marks.is_settled(9.0)
    assert marks.take(12.0) == [Look(WRITTEN, 2.0)]


def test_what_was_taken_and_not_written_does_not_come_back() -> None:
    marks = marked(SEEN)
    marks.clear(marks.take(11.0))
    assert marks.is_settled(10.0)
    assert marks.is_idle


def test_what_waits_and_was_not_written_does_not_come_back() -> None:
    marks = Marks()
    marks.wait([Waiting(SEEN, 5.0)], 10.0)
    marks.clear([])
    assert marks.is_idle


def test_a_look_of_our_own_does_not_make_a_place_less_quiet() -> None:
    marks = Marks()
    place = Mark(ROOT_ID, b"f", is_written=True)
    marks.add([place], 1.0)
    assert [look.quiet_s for look in marks.take(1.0)] == [0.0]
    marks.wait([Waiting(place, 0.1)], 1.0)
    for step in range(1, 10):
        marks.add([place], 1.0 + step / 100, is_own=True)
        assert marks.take(1.0 + step / 100) == []
    [look] = marks.take(1.25)
    assert look.quiet_s == 0.25
