"""Where the checkout is, and which files belong to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def committed_files() -> list[Path]:
    """Return the files that git keeps, and those that wait to be added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")
    found = [ROOT / name.decode() for name in listed if name]
    return [path for path in found if path.is_file()]


def python_files(*folders: str) -> list[Path]:
    """Return the hand-written modules below some folders of the checkout."""
    generated = ROOT / "src" / "syncline" / "rpc" / "gen"
    return [
        path
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if generated not in path.parents
    ]
