"""The benchmarks still run; what they measure is judged by nobody here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.run import ROWS
from tests.support.house import ROOT

TOGETHER = ("edit,stores,growth", "small,clients", "large,tree,commands", "fanout,beside,locks")
"""Rows that one run has, so that the runs are about as long and may go side by side."""


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout[-2000:]
    return done.stdout


def results() -> dict[Path, bytes]:
    directory = ROOT / "benchmarks"
    found = [directory / "RESULTS.md", *(directory / "results").glob("*")]
    return {path: path.read_bytes() for path in found if path.is_file()}


def test_every_row_is_run_by_the_quick_mode() -> None:
    assert set(ROWS) <= {row for rows in TOGETHER for row in rows.split(",")}


@pytest.mark.process
@pytest.mark.parametrize("rows", TOGETHER)
def test_the_quick_mode_of_the_benchmarks_runs_and_leaves_the_results_alone(rows: str) -> None:
    before = results()
    known = [row for row in rows.split(",") if row in ROWS]
    said = run("benchmarks/run.py", "--quick", "--rows", ",".join(known))
    for row in known:
        assert f"\n{row}, memory: " in said
    assert said.count("\n| Syncline | ") >= 1
    assert results() == before


@pytest.mark.process
def test_the_hot_paths_can_be_measured_alone() -> None:
    said = run("benchmarks/micro.py", "--quick")
    for path in ("commit", "feed", "reconcile", "chunk", "place"):
        assert path in said
