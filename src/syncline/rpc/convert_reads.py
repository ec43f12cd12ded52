"""HELLO, FETCH, LIST and STAT on the wire; see `convert_entries` for W1 to W4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from syncline.core.changes import CHANGES_MAX, COMMIT_BYTES_MAX
from syncline.core.identity import (
    Digest,
    Revision,
    VolumeId,
    parse_digest,
    parse_entry_id,
    parse_revision,
)
from syncline.core.manifests import CHUNK_BYTES_MAX, CONTENT_BYTES_MAX, INLINE_BYTES_MAX
from syncline.core.names import RelPath
from syncline.errors import TooLarge, TooNew
from syncline.ports.link import PROTOCOL, PROTOCOL_OLDEST, Located, ServerFacts
from syncline.rpc.channel import MESSAGE_BYTES_MAX
from syncline.rpc.convert_answers import DIGESTS_PER_MESSAGE
from syncline.rpc.convert_entries import (
    at_from_pb,
    at_to_pb,
    entry_weight,
    group,
    head_from_pb,
    head_to_pb,
    invalid,
    located_from_pb,
    located_to_pb,
    parse_label,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

STAT_PATHS_MAX = 80
"""Paths of one STAT: so many entries with the longest manifests still fit one message."""


# -- Hello -------------------------------------------------------------------


def check_protocol(protocol: int, protocol_oldest: int, other: str) -> None:
    """Raise TooNew where we and `other` (client or server) speak no common protocol."""
    if not 0 < protocol_oldest <= protocol:
        raise invalid("protocol", "must be a range that starts above 0")
    if protocol_oldest > PROTOCOL:
        raise TooNew(
            f"the {other} needs protocol {protocol_oldest}, this side speaks up to {PROTOCOL}:"
            " update this side",
            protocol=str(protocol_oldest),
        )
    if protocol < PROTOCOL_OLDEST:
        raise TooNew(
            f"the {other} speaks up to protocol {protocol}, this side needs {PROTOCOL_OLDEST}:"
            f" update the {other}",
            protocol=str(protocol),
        )


def hello_to_pb(volume: str, client_version: str) -> pb.HelloRequest:
    """Return what a client says first."""
    return pb.HelloRequest(
        volume=volume,
        protocol=PROTOCOL,
        protocol_oldest=PROTOCOL_OLDEST,
        client_version=client_version,
    )


def hello_from_pb(message: pb.HelloRequest) -> str:
    """Return the volume that a client asks for; raise Invalid or TooNew."""
    check_protocol(message.protocol, message.protocol_oldest, "client")
    return parse_label(message.volume, "volume")


def facts_to_pb(facts: ServerFacts) -> pb.HelloResponse:
    """Return what a server says of itself, with the limits of this version."""
    return pb.HelloResponse(
        protocol=facts.protocol,
        protocol_oldest=facts.protocol_oldest,
        server_version=facts.server_version,
        capabilities=sorted(facts.capabilities),
        volume_id=facts.volume,
        volume_name=facts.volume_name,
        head=head_to_pb(facts.head),
        limits=pb.Limits(
            message_bytes=MESSAGE_BYTES_MAX,
            changes=CHANGES_MAX,
            commit_bytes=COMMIT_BYTES_MAX,
            inline_bytes=INLINE_BYTES_MAX,
            chunk_bytes=CHUNK_BYTES_MAX,
        ),
    )


def facts_from_pb(message: pb.HelloResponse) -> ServerFacts:
    """Return checked facts; raise TooNew before the rest of a newer answer is looked at."""
    check_protocol(message.protocol, message.protocol_oldest, "server")
    return ServerFacts(
        message.protocol,
        message.protocol_oldest,
        parse_label(message.server_version, "server version"),
        frozenset(parse_label(name, "capability") for name in message.capabilities),
        VolumeId(parse_entry_id(message.volume_id, "volume id")),
        parse_label(message.volume_name, "volume"),
        head_from_pb(message.head),
    )


# -- Fetch -------------------------------------------------------------------


def fetch_to_pb(volume: str, digests: Sequence[Digest]) -> pb.FetchRequest:
    """Return the request for chunks by digest, which may come compressed."""
    chunks = pb.FetchChunks(digests=digests, encodings=[pb.ENCODING_ZSTD])
    return pb.FetchRequest(volume=volume, chunks=chunks)


@dataclass(frozen=True, slots=True)
class FileAddress:
    """One file to fetch by its path; from `offset` on."""

    path: RelPath
    at: Revision | None
    offset: int


@dataclass(frozen=True, slots=True)
class WantedChunks:
    """Chunks to fetch by their digests, and whether they may come compressed."""

    digests: tuple[Digest, ...]
    may_be_zstd: bool


def fetch_from_pb(message: pb.FetchRequest) -> tuple[str, FileAddress | WantedChunks]:
    """Return the volume and what is asked for: a file, or chunks."""
    volume = parse_label(message.volume, "volume")
    match message.WhichOneof("what"):
        case "file":
            file = message.file
            if file.offset > CONTENT_BYTES_MAX:
                raise invalid("offset", "is past the end of any file")
            path = RelPath.parse(file.path)
            return volume, FileAddress(path, at_from_pb(file.revision), file.offset)
        case "chunks":
            digests = message.chunks.digests
            if not digests:
                raise invalid("digests", "there are none")
            if len(digests) > DIGESTS_PER_MESSAGE:
                raise TooLarge(
                    f"a FETCH has at most {DIGESTS_PER_MESSAGE} chunks",
                    field="digests",
                    limit=f"{DIGESTS_PER_MESSAGE}",
                )
            return volume, WantedChunks(
                tuple(parse_digest(digest, "digests") for digest in digests),
                pb.ENCODING_ZSTD in message.chunks.encodings,
            )
        case _:
            raise invalid("what", "the FETCH asks for nothing that is known")


# -- List and Stat -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """What a LIST asks for."""

    path: RelPath
    is_recursive: bool
    at: Revision | None


def list_to_pb(volume: str, listing: Listing) -> pb.ListRequest:
    """Return the request for a listing."""
    return pb.ListRequest(
        volume=volume,
        path=bytes(listing.path),
        is_recursive=listing.is_recursive,
        revision=at_to_pb(listing.at),
    )


def list_from_pb(message: pb.ListRequest) -> tuple[str, Listing]:
    """Return the volume and the checked request."""
    volume = parse_label(message.volume, "volume")
    path = RelPath.parse(message.path)
    return volume, Listing(path, message.is_recursive, at_from_pb(message.revision))


def _located_weight(located: Located) -> int:
    return entry_weight(located.entry) + len(bytes(located.path)) + 4 * len(located.author)


def list_frames(revision: Revision, entries: Iterable[Located]) -> Iterator[pb.ListResponse]:
    """Yield pages of a listing that is all of one revision; none for no entries."""
    for page in group(entries, _located_weight):
        yield pb.ListResponse(revision=revision, entries=[located_to_pb(item) for item in page])


def list_page_from_pb(
    message: pb.ListResponse, listing: Listing
) -> tuple[Revision, tuple[Located, ...]]:
    """Return the revision and the checked entries of a page; raise Invalid for ones not asked."""
    revision = parse_revision(message.revision)
    entries = tuple(located_from_pb(item) for item in message.entries)
    for located in entries:
        if not located.path.is_within(listing.path):
            raise invalid("path", "is not within the listed directory")
        if not listing.is_recursive and len(located.path.parts) > len(listing.path.parts) + 1:
            raise invalid("path", "is deeper than what was asked for")
        if located.entry.revision > revision:
            raise invalid("revision", "an entry is newer than its listing")
    return revision, entries


def stat_to_pb(volume: str, paths: Sequence[RelPath], at: Revision | None) -> pb.StatRequest:
    """Return the request for what is at some paths, at most `STAT_PATHS_MAX`."""
    return pb.StatRequest(
        volume=volume, paths=[bytes(path) for path in paths], revision=at_to_pb(at)
    )


def stat_from_pb(message: pb.StatRequest) -> tuple[str, tuple[RelPath, ...], Revision | None]:
    """Return the volume, the checked paths, and the revision asked for."""
    volume = parse_label(message.volume, "volume")
    if len(message.paths) > STAT_PATHS_MAX:
        raise TooLarge(
            f"a STAT has at most {STAT_PATHS_MAX} paths", field="paths", limit=f"{STAT_PATHS_MAX}"
        )
    return volume, tuple(map(RelPath.parse, message.paths)), at_from_pb(message.revision)


def stat_answer_to_pb(revision: Revision, found: Sequence[Located | None]) -> pb.StatResponse:
    """Return the answer of a STAT, a result a path."""
    results = [pb.StatResult(found=None if item is None else located_to_pb(item)) for item in found]
    return pb.StatResponse(revision=revision, results=results)


def stat_answer_from_pb(
    message: pb.StatResponse, paths: Sequence[RelPath]
) -> tuple[Revision, list[Located | None]]:
    """Return the revision and the checked result of each path, in order."""
    if len(message.results) != len(paths):
        raise invalid("results", "not one for each path")
    found: list[Located | None] = []
    for path, result in zip(paths, message.results, strict=True):
        located = located_from_pb(result.found) if result.HasField("found") else None
        if located is not None and located.path != path:
            raise invalid("path", "is not the path that was asked for")
        found.append(located)
    return parse_revision(message.revision), found
