"""Freed memory is kept for the next buffers, and given back at rest."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
from syncline.adapters import allocator

def resident_mib():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) / 1024

def faults():
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[7])

assert allocator.keep_freed()
bytes(3 << 20)
before = faults()
for _ in range(100):
    bytes(3 << 20)
assert faults() - before < 3 * 256, "each buffer was faulted in again"

buffers = [b"x" * (64 << 10) for _ in range(1024)]
pin = b"y" * 2000
held = resident_mib()
buffers.clear()
assert allocator.give_back()
assert resident_mib() < held - 48, (held, resident_mib())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the settings are glibc's")
def test_freed_buffers_are_used_again_and_given_back_at_rest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
