"""A client in a process of its own that takes one lock again and again; a program, not a module.

Arguments: address, number of the client, rounds, a file that only who holds the lock may have made.
Prints a line a round: how long it waited, in ms.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from syncline.core.changes import Author
from syncline.core.identity import ReplicaId
from syncline.core.names import RelPath
from syncline.core.user_locks import Owner, SessionId
from syncline.ports.locks import LockWanted, UnlockTarget, UnlockWanted
from syncline.rpc.link import GrpcLink


async def main(address: str, number: str, rounds: int, claim: Path) -> None:
    """Lock, see that nobody else has it, unlock; `rounds` times."""
    raw = number.encode().rjust(16, b"0")
    owner = Owner(Author(ReplicaId(raw), f"client {number}"), "here", SessionId(raw))
    link = GrpcLink(address, "default", timeout_s=30.0)
    path = RelPath.parse(b"x")
    for _ in range(rounds):
        began_s = time.monotonic()
        [lock] = await link.lock(LockWanted(owner, (path,), lease_s=30.0, wait_s=60.0))
        took_s = time.monotonic() - began_s
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
        print(f"{1000 * took_s:.3f}", flush=True)
        os.unlink(claim)
        target = UnlockTarget(lock.lock.entry, lock.lock.token)
        await link.unlock(UnlockWanted(owner.author, owner.host, (target,)))
    await link.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
