"""The benchmarks still run; what they measure is judged by nobody here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.house import ROOT


@pytest.mark.process
def test_the_quick_mode_of_the_benchmarks_runs_and_leaves_the_results_alone() -> None:
    results = ROOT / "benchmarks" / "RESULTS.md"
    before = results.read_bytes()
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "durable STOREs of 1 KiB a second, 32 clients" in done.stdout
    assert "| Syncline |" in done.stdout
    assert "| by a temporary file and a rename |" in done.stdout
    assert "an edit of that moment is at B" in done.stdout
    assert results.read_bytes() == before
