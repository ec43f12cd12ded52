"""How the C library keeps what was freed: ready for the next chunk, until the process is at rest.

Left to itself glibc gives a freed buffer of a chunk back to the kernel at once, and takes it again
for the next one: each page is then faulted in and cleared anew, which costs more than all digests
of its bytes together. And it makes an arena for each thread, of which each keeps its own waste.
Where the C library has no such settings, all stays as it is.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
"""From malloc.h."""

KEPT_BYTES = 32 * 1024 * 1024
"""What may lie free at the end of the heap: more than all buffers of two transfers."""

BUFFER_BYTES_MAX = 4 * 1024 * 1024
"""Up to here a buffer comes from the heap: messages, chunks, and what is read of a file at once."""

_libc = ctypes.CDLL(None)


def keep_freed() -> bool:
    """Keep freed buffers for the next ones, in one arena; call it before there are threads.

    Returns whether the C library can.
    """
    if not hasattr(_libc, "mallopt"):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, BUFFER_BYTES_MAX),
        (_M_TRIM_THRESHOLD, KEPT_BYTES),
        (_M_ARENA_MAX, 1),
    )
    return all(_libc.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> bool:
    """Give free memory back to the system; some milliseconds. Returns whether there was any."""
    if not hasattr(_libc, "malloc_trim"):
        return False
    return bool(_libc.malloc_trim(ctypes.c_size_t(0)))
