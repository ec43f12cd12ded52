"""What every row gets: where to work, how much, with whom, and how the programs take turns."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Trouble
from benchmarks.peers.by_hand import Copy, Rsync
from benchmarks.peers.lsyncd import Lsyncd
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Program
from benchmarks.peers.syncthing import Syncthing
from benchmarks.peers.unison import Unison
from benchmarks.results import OURS, Table

PROGRAMS: tuple[Program, ...] = (Syncline(), Syncthing(), Unison(), Lsyncd(), Rsync(), Copy())

SLOW_S = 30.0
SLOW_ROUNDS = 2
"""A program that takes longer than this for one repetition is repeated so often and no more."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a run does."""

    large_bytes: int = 1 << 30
    small_files: int = 10_000
    tree_entries: int = 13_000
    renamed_files: int = 1_000
    repetitions: int = 5
    edits: int = 300
    edit_s: float = 40.0
    """A program's edits end then, however few there were."""

    bursts: int = 10
    fanout: int = 10
    fanout_edits: int = 60
    settle_s: float = 1.5
    idle_s: float = 30.0
    beside: tuple[int, ...] = (1_000, 10_000, 100_000)
    growth: tuple[int, ...] = (1_000, 10_000, 100_000)
    idle_clients: int = 1_000
    crowd_changes: int = 20
    peers_in: tuple[str, ...] | None = None
    """The rows in which the peers that watch take part too; None for all."""

    stores_alone: int = 1_500
    stores_together: int = 3_200
    latencies: int = 400
    lock_rounds: int = 1_000
    has_syncs: bool = True


QUICK = Sizes(
    large_bytes=4 << 20,
    small_files=60,
    tree_entries=80,
    renamed_files=20,
    repetitions=1,
    edits=4,
    edit_s=4.0,
    bursts=1,
    fanout=3,
    fanout_edits=2,
    settle_s=0.1,
    idle_s=0.1,
    beside=(30,),
    growth=(20, 40),
    idle_clients=20,
    crowd_changes=3,
    peers_in=("small", "edit"),
    stores_alone=20,
    stores_together=32,
    latencies=5,
    lock_rounds=20,
    has_syncs=False,
)


@dataclass(slots=True)
class Context:
    """A run of one row in one place."""

    home: Path
    place: str
    sizes: Sizes
    programs: Sequence[Program]
    budget_s: float
    troubles: list[str] = field(default_factory=list)
    """What went wrong with Syncline: a run with trouble fails in the end."""

    @property
    def has_ours(self) -> bool:
        """Tell whether Syncline is among those that are measured."""
        return any(each.name == OURS for each in self.programs)

    def say(self, line: str) -> None:
        """Show how far the run is."""
        print(line, flush=True)

    def rounds(
        self,
        tables: Sequence[Table],
        work: Callable[[Program, Path, int], None],
        *,
        repetitions: int | None = None,
        programs: Sequence[Program] | None = None,
    ) -> None:
        """Let the programs take turns in `work`, which gets a fresh directory and the round.

        Ends before the budget does, but not before everyone had one turn. A program that is not
        here, or does not do what is measured, gets a word in the tables and no further turn.
        """
        taking = []
        for program in self.programs if programs is None else programs:
            if absent := program.absent():
                self._give_word(tables, program, absent)
            else:
                taking.append(program)
        took: dict[str, float] = {}
        began = time.monotonic()
        for number in range(self.sizes.repetitions if repetitions is None else repetitions):
            for program in list(taking):
                last_s = took.get(program.name, 0.0)
                if number >= SLOW_ROUNDS and last_s > SLOW_S:
                    continue
                if number and time.monotonic() - began + last_s > self.budget_s:
                    continue
                started = time.monotonic()
                if not self._turn(tables, program, work, number):
                    taking.remove(program)
                took[program.name] = time.monotonic() - started

    def _turn(
        self,
        tables: Sequence[Table],
        program: Program,
        work: Callable[[Program, Path, int], None],
        number: int,
    ) -> bool:
        home = self.home / "turn"
        home.mkdir()
        started = time.monotonic()
        try:
            work(program, home, number)
        except (Trouble, OSError) as trouble:
            self._give_word(tables, program, str(trouble).replace("\n", " ")[:120])
            if program.name == OURS:
                self.troubles.append(f"{tables[0].title}: {trouble}")
            return False
        finally:
            shutil.rmtree(home)
        took_s = time.monotonic() - started
        self.say(f"  {tables[0].title}: {program.name}, turn {number + 1}, {took_s:.1f} s")
        return True

    @staticmethod
    def discard(directory: Path) -> None:
        """Remove a directory that is not needed any more."""
        shutil.rmtree(directory)

    @staticmethod
    def _give_word(tables: Sequence[Table], program: Program, word: str) -> None:
        for table in tables:
            table.words[program.name] = word
