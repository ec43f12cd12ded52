"""A process that writes commits until it is killed, and prints each one once it is durable.

Run as `python -m tests.support.metadata_storm FILE`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.core.changes import Change
from syncline.core.identity import digest_of
from syncline.ports.chunks import Location
from tests.support.commits import commit_changes, volume_id
from tests.support.trees import delete, id_of, move, put_file

VOLUME = volume_id("storm")


def storm(path: Path) -> None:
    """Make, edit, move and delete files; one line a write session: revision and commit id."""
    store = SqliteMetadataStore(path)
    if not store.volumes():
        store.create_volume(VOLUME, "storm")
    with store.read(VOLUME) as reader:
        start = reader.head().revision
    for round in itertools.count(start):
        with store.write(VOLUME) as session:
            session.add_chunks({digest_of(b"%d" % round): Location(1, round * 10, 10)})
            for _ in range(1 + round % 3):
                revision = session.head().revision
                changes: list[Change] = [
                    put_file(f"{revision}-{n}", content=b"%d" % revision)
                    for n in range(1 + revision % 20)
                ]
                old = session.entry(id_of(f"{revision - 5}-0"))
                if old is not None and old.is_live:
                    edited = f"{revision - 5}-0"
                    changes.append(move(edited, old.revision, "/", b"moved-%d" % revision))
                gone = session.entry(id_of(f"{revision - 9}-0"))
                if gone is not None and gone.is_live:
                    changes.append(delete(f"{revision - 9}-0", gone.revision))
                commit_changes(session, changes)
            head = session.head()
        print(head.revision, head.commit_id.hex(), flush=True)


if __name__ == "__main__":
    storm(Path(sys.argv[1]))
