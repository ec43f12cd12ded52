"""System calls of Linux that the standard library does not bind.

Each raises an OSError with the errno of the call: ENOSYS too where the C library lacks it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
"""From linux/fs.h."""

_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800
_AT_EMPTY_PATH = 0x1000
"""From linux/fcntl.h."""

_STATX_BTIME = 0x800
_STATX_BYTES = 256
_STATX_BTIME_OFFSET = 80
"""From linux/stat.h: `struct statx` opens with `__u32 stx_mask`; `stx_btime` (`__s64` seconds,
`__u32` nanoseconds) follows 64 bytes of other fields and the 16 of `stx_atime`."""

_libc = ctypes.CDLL(None, use_errno=True)


_CType = type[ctypes.c_int] | type[ctypes.c_uint] | type[ctypes.c_char_p] | type[ctypes.c_void_p]


def _bind(name: str, *types: _CType) -> Callable[..., int]:
    if not hasattr(_libc, name):
        return _missing
    function = getattr(_libc, name)
    function.argtypes = types
    function.restype = ctypes.c_int
    return _raising(function)


def _missing(*_arguments: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _raising(function: Callable[..., int]) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        result = function(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    return call


_renameat2 = _bind(
    "renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
)
_syncfs = _bind("syncfs", ctypes.c_int)
_statx = _bind("statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)


def rename_flagged(source: int, name: bytes, target: int, to_name: bytes, flags: int) -> None:
    """Do `renameat2` between two directory descriptors with one of the RENAME flags.

    EINVAL: the file system does not know the flag, or a directory would go into itself.
    """
    _renameat2(source, name, target, to_name, flags)


def sync_file_system(fd: int) -> None:
    """Make all of the file system that `fd` is on durable."""
    _syncfs(fd)


def born_ns(fd: int, name: bytes = b"") -> int:
    """Return the birth time of a name in a directory, or of `fd` itself; 0 where none is kept."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if name else _AT_EMPTY_PATH)
    try:
        _statx(fd, name, flags, _STATX_BTIME, found)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return 0
        raise
    (mask,) = struct.unpack_from("=I", found, 0)
    if not mask & _STATX_BTIME:
        return 0
    seconds, nanoseconds = struct.unpack_from("=qI", found, _STATX_BTIME_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
