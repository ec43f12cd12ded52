"""Hypothesis strategies for the values of `core` and `ports` that travel."""

from __future__ import annotations

from hypothesis import strategies as st

from syncline.core.changes import (
    Accepted,
    Answer,
    Author,
    Change,
    Delete,
    Holder,
    Move,
    Outcome,
    Proposal,
    PutDirectory,
    PutFile,
    PutLink,
    Refusal,
    RefusalCode,
)
from syncline.core.entries import LINK_MODE, MTIME_NS_MAX, MTIME_NS_MIN, Entry, Kind
from syncline.core.identity import (
    REVISION_MAX,
    ROOT_ID,
    CommitId,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    digest_of,
)
from syncline.core.manifests import (
    CHUNK_BYTES_MAX,
    INLINE_BYTES_MAX,
    ChunkRef,
    Content,
    build_content,
    single_chunk,
)
from syncline.core.names import RESERVED_ROOT_NAME, Name, RelPath
from syncline.core.table import Commit, Cursor, Head
from syncline.ports.link import Committed, Effect, Located, PathChange

ids = st.binary(min_size=16, max_size=16).filter(lambda raw: raw != ROOT_ID).map(EntryId)
parents = st.one_of(st.just(ROOT_ID), ids)
digests = st.binary(min_size=32, max_size=32).map(Digest)
revisions = st.integers(1, REVISION_MAX).map(Revision)
times = st.integers(MTIME_NS_MIN, MTIME_NS_MAX)
modes = st.integers(0, 0o777)
names = (
    st.one_of(
        st.binary(min_size=1, max_size=255),
        st.sampled_from([b"a.txt", b"\xff\xfe", b"..."]),
    )
    .filter(lambda raw: b"/" not in raw and b"\0" not in raw)
    .filter(lambda raw: raw not in (b".", b"..", RESERVED_ROOT_NAME))
    .map(Name)
)
targets = st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw)
labels = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=60
)  # at most 240 bytes
authors = st.builds(Author, st.binary(min_size=16, max_size=16).map(ReplicaId), labels)
op_ids = st.binary(min_size=16, max_size=16).map(OpId)
heads = st.builds(
    Head,
    st.integers(0, REVISION_MAX).map(Revision),
    digests.map(CommitId),
    st.integers(0, 2**256 - 1),
)
cursors = st.builds(
    Cursor,
    st.integers(0, REVISION_MAX).map(Revision),
    st.none() | digests.map(CommitId),
)
chunk_refs = st.builds(ChunkRef, digests, st.integers(1, CHUNK_BYTES_MAX))


@st.composite
def contents(draw: st.DrawFn) -> Content:
    """Content of no chunk, one, several, or a manifest in pieces."""
    shape = draw(st.sampled_from(["small", "several", "pieces"]))
    if shape == "small":
        return single_chunk(draw(digests), draw(st.integers(0, CHUNK_BYTES_MAX)))
    refs = draw(st.lists(chunk_refs, min_size=2, max_size=5))
    if shape == "pieces":
        refs = refs * 40
    return build_content(draw(digests), sum(ref.size for ref in refs), refs)[0]


@st.composite
def entries(draw: st.DrawFn, *, live: bool | None = None) -> Entry:
    """A state of any kind; a tombstone too, unless `live` says which."""
    kind = draw(st.sampled_from(Kind))
    is_live = draw(st.booleans()) if live is None else live
    is_file, is_link = kind is Kind.FILE, kind is Kind.LINK
    id = draw(ids)
    return Entry(
        id,
        draw(revisions),
        draw(parents.filter(lambda parent: parent != id)),
        draw(names),
        kind,
        LINK_MODE if is_link else draw(modes),
        0 if kind is Kind.DIRECTORY else draw(times),
        draw(contents()) if is_live and is_file else None,
        draw(targets) if is_live and is_link else None,
        is_live,
    )


@st.composite
def located(draw: st.DrawFn) -> Located:
    """A live entry below some directories."""
    entry = draw(entries(live=True))
    above = draw(st.lists(names, max_size=3))
    return Located(RelPath((*above, entry.name)), entry, draw(labels), draw(times))


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """A change of any kind."""
    id, base = draw(ids), draw(st.integers(0, REVISION_MAX).map(Revision))
    parent, name = draw(parents), draw(names)
    return draw(
        st.one_of(
            st.builds(
                PutFile,
                st.just(id),
                st.just(base),
                st.just(parent),
                st.just(name),
                modes,
                times,
                contents(),
            ),
            st.builds(
                PutDirectory, st.just(id), st.just(base), st.just(parent), st.just(name), modes
            ),
            st.builds(
                PutLink,
                st.just(id),
                st.just(base),
                st.just(parent),
                st.just(name),
                times,
                targets,
            ),
            st.just(Move(id, base, parent, name)),
            st.just(Delete(id, base)),
        )
    )


inline_bytes = st.binary(min_size=1, max_size=200) | st.just(bytes(INLINE_BYTES_MAX))


@st.composite
def proposals(draw: st.DrawFn) -> Proposal:
    """A STORE of some changes, a few of them with their content inside."""
    inline = {digest_of(raw): raw for raw in draw(st.lists(inline_bytes, max_size=3))}
    listed = draw(st.lists(changes(), min_size=0 if inline else 1, max_size=6))
    for digest, raw in inline.items():
        put = PutFile(
            draw(ids),
            Revision(0),
            ROOT_ID,
            draw(names),
            0o644,
            0,
            single_chunk(digest, len(raw)),
        )
        listed += [put] * draw(st.integers(1, 2))
    return Proposal(
        draw(authors),
        draw(op_ids),
        tuple(draw(st.permutations(listed))),
        inline,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.integers(0, 600_000)) / 1000,
    )


holders = st.builds(
    Holder,
    labels,
    st.binary(min_size=16, max_size=16).map(ReplicaId),
    st.integers(0, 10**7).map(lambda ms: ms / 1000),
    st.integers(0, 10**7).map(lambda ms: ms / 1000),
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Accepted, revisions, st.integers(0, REVISION_MAX).map(Revision)),
    st.builds(
        Refusal,
        st.sampled_from(RefusalCode),
        st.none() | entries(),
        st.none() | holders,
        st.lists(digests, max_size=4).map(tuple),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=100),
    ),
)
answers = st.builds(
    Answer, revisions, st.lists(outcomes, min_size=1, max_size=8).map(tuple), st.booleans()
)


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """A commit of a few states."""
    revision = draw(revisions)
    states = draw(st.lists(entries(), max_size=6, unique_by=lambda entry: entry.id))
    return Commit(
        revision,
        draw(digests.map(CommitId)),
        draw(authors),
        draw(op_ids),
        draw(times),
        draw(st.booleans()),
        tuple(_at(entry, revision) for entry in states),
        draw(st.integers(0, 2**256 - 1)),
    )


@st.composite
def committed(draw: st.DrawFn) -> Committed:
    """A commit as a watcher gets it, with or without paths and inline content."""
    commit = draw(commits())
    found: list[PathChange] = []
    if draw(st.booleans()):
        for entry in commit.entries:
            effects = [effect for effect in Effect if (effect is Effect.DELETED) != entry.is_live]
            path = RelPath((*draw(st.lists(names, max_size=2)), entry.name))
            old = draw(st.none() | st.lists(names, min_size=1, max_size=2))
            effect = draw(st.sampled_from(effects))
            found.append(PathChange(effect, path, RelPath(tuple(old)) if old else None, entry))
    found.sort(key=lambda change: change.path.parts)
    inline = {
        entry.content.digest: bytes(entry.content.size)
        for entry in commit.entries
        if entry.content is not None
        and (entry.content.depth, len(entry.content.refs)) == (0, 1)
        and entry.content.size <= INLINE_BYTES_MAX
    }
    return Committed(commit, tuple(found), inline)


def _at(entry: Entry, revision: Revision) -> Entry:
    return Entry(
        entry.id,
        revision,
        entry.parent,
        entry.name,
        entry.kind,
        entry.mode,
        entry.mtime_ns,
        entry.content,
        entry.target,
        entry.is_live,
    )
