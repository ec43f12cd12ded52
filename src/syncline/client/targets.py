"""Where things go: the rules of `store ... --to` and `fetch ... --to`, like those of `cp`.

A target that ends in a slash, that is a directory already, or that several things go to, takes them
inside under their own names; else one thing gets exactly that path. A local `.`, or what ends in
`/.`, stands for what is inside of it, and so does the root of a volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.client.local import is_local_directory
from syncline.core.entries import Kind
from syncline.core.names import RelPath, escape, parse_name
from syncline.errors import Invalid
from syncline.ports.link import Link


@dataclass(frozen=True, slots=True)
class Source:
    """Something local, as the user named it, and the path in the volume that it is to have.

    `remote` is the root only for a directory whose contents go there.
    """

    local: bytes
    remote: RelPath


@dataclass(frozen=True, slots=True)
class Place:
    """A path in the volume and the local path that it is to have.

    For the root of the volume `local` is the directory that takes its contents.
    """

    remote: RelPath
    local: bytes


@dataclass(frozen=True, slots=True)
class Address:
    """A path in a volume as a user writes it; `is_directory` when it ended in a slash."""

    path: RelPath
    is_directory: bool = False


def parse_address(raw: bytes) -> Address:
    """Return a path that a user wrote; slashes at its end are well, one at its start is Invalid."""
    if raw.startswith(b"/"):
        hint = escape(raw.lstrip(b"/")) or "''"
        raise Invalid(
            f"'{escape(raw)}' is absolute; paths in a volume start with a name: write {hint}",
            field="path",
            reason="absolute",
        )
    stripped = raw.rstrip(b"/")
    if stripped == b".":
        return Address(RelPath(), is_directory=True)
    return Address(RelPath.parse(stripped), is_directory=raw != stripped)


async def store_sources(link: Link, locals_: Sequence[bytes], to: Address | None) -> list[Source]:
    """Ask the server what stands at `to`, and return where each local path goes.

    Raises Invalid where two would get one path, and the link's errors.
    """
    if to is None or not to.path.parts:
        return plan_store(locals_, Address(RelPath(), is_directory=True), standing=None)
    [found] = await link.stat([to.path], None)
    return plan_store(locals_, to, standing=found.entry.kind if found else None)


def plan_store(locals_: Sequence[bytes], to: Address, *, standing: Kind | None) -> list[Source]:
    """Return where each local path goes; `standing` is what the server has at `to`."""
    goes_inside = (
        not to.path.parts or to.is_directory or len(locals_) > 1 or standing is Kind.DIRECTORY
    )
    sources = []
    for local in locals_:
        base = base_name(local)
        if base is None or not goes_inside:
            sources.append(Source(local, to.path))
        else:
            # Parsed again as a whole: the limit of 4,096 bytes and the reserved name count here.
            whole = RelPath.parse(bytes(to.path.child(parse_name(base))))
            sources.append(Source(local, whole))
    _refuse_twins([source.remote for source in sources if base_name(source.local) is not None])
    return sources


def fetch_places(addresses: Sequence[Address], to: bytes | None) -> list[Place]:
    """Look at what stands at the local path `to`, and return where each path goes."""
    return plan_fetch(addresses, to, is_directory=to is None or is_local_directory(to))


def plan_fetch(
    addresses: Sequence[Address], to: bytes | None, *, is_directory: bool
) -> list[Place]:
    """Return the local path of each path; `is_directory` says that `to` is one already."""
    target = to or b"."
    goes_inside = is_directory or len(addresses) > 1 or target.endswith(b"/")
    places = []
    for address in addresses:
        if not address.path.parts or not goes_inside:
            places.append(Place(address.path, target))
        else:
            places.append(Place(address.path, _join(target, address.path.name)))
    named = [place for place in places if place.remote.parts]
    if len({place.local for place in named}) < len(named):
        raise Invalid(
            "two of the paths have the same name and would get one local path; "
            "fetch them into different directories",
            field="path",
            reason="twice",
        )
    return places


def base_name(local: bytes) -> bytes | None:
    """Return the name that a local path is stored under; None where its contents are meant."""
    if not local:
        raise Invalid("a local path is empty", field="path", reason="empty")
    stripped = local.rstrip(b"/")
    base = stripped.rpartition(b"/")[2]
    return None if base in (b"", b".", b"..") else base


def _join(directory: bytes, name: bytes) -> bytes:
    if directory in (b".", b"./"):
        return name
    return directory.rstrip(b"/") + b"/" + name if directory.strip(b"/") else b"/" + name


def _refuse_twins(paths: Sequence[RelPath]) -> None:
    seen: set[RelPath] = set()
    for path in paths:
        if path in seen:
            raise Invalid(
                f"two of the local paths would both be stored as '{path}'; "
                "store them with different --to",
                field="path",
                reason="twice",
            )
        seen.add(path)
