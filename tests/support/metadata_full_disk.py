"""A process that fills a small file system below a metadata store, and makes room again.

Run as `python -m tests.support.metadata_full_disk DIRECTORY`, which must be a small file system.
"""

from __future__ import annotations

import sys
from pathlib import Path

from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.errors import NoSpace
from syncline.server.verify import verify_metadata
from tests.support.commits import commit_changes, volume_id
from tests.support.trees import put_file

VOLUME = volume_id("full")


def fill(path: Path) -> None:
    """Write to a file until the file system is full."""
    with path.open("ab", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            return


def run(directory: Path) -> None:
    """Meet a full disk at creation and in the middle of commits; fail where the store does wrong.

    Prints how many commits were refused.
    """
    ballast, path = directory / "ballast", directory / "metadata"
    fill(ballast)
    try:
        SqliteMetadataStore(path)
    except NoSpace as error:
        assert error.fields["where"] == "server"
    else:
        raise AssertionError("a store was made on a full disk")
    assert not path.exists()
    ballast.unlink()

    store = SqliteMetadataStore(path)
    store.create_volume(VOLUME, "full")
    refused = 0
    for round in range(3):
        fill(ballast)
        done = write_until_full(store)
        refused += 1
        with store.read(VOLUME) as reader:
            assert reader.head().revision == done
        assert list(verify_metadata(store, VOLUME)) == []
        ballast.unlink()
        assert write(store) == done + 1, f"it does not go on in round {round}"
    store.close()
    reopened = SqliteMetadataStore(path)
    assert list(verify_metadata(reopened, VOLUME)) == []
    assert list(reopened.integrity_lines()) == []
    reopened.close()
    print(refused)


def write_until_full(store: SqliteMetadataStore) -> int:
    """Commit until there is no space; return the last revision that held."""
    with store.read(VOLUME) as reader:
        done = int(reader.head().revision)
    for _ in range(10_000):
        try:
            done = write(store)
        except NoSpace as error:
            assert error.fields["where"] == "server"
            return done
    raise AssertionError("the disk was never full")


def write(store: SqliteMetadataStore) -> int:
    """Make one commit of some files; return its revision."""
    with store.write(VOLUME) as session:
        revision = session.head().revision
        commit_changes(session, [put_file(f"{revision}-{n}") for n in range(40)])
        return session.head().revision


if __name__ == "__main__":
    run(Path(sys.argv[1]))
