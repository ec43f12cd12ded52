"""The layers of the package hold: the contracts of pyproject.toml, as `make lint` checks them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.house import ROOT


def test_the_contracts_of_import_linter_are_kept() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run(
        [command, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout
