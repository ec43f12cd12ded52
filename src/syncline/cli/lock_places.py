"""Where the paths of `lock`, `unlock` and `locks` are: in a running mount, or in a volume."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncline.cli.exits import ExitCode
from syncline.cli.options import ClientOptions
from syncline.cli.output import Output
from syncline.cli.session import Body, run_client, run_plain
from syncline.compose.control import ask_status
from syncline.compose.mount_places import MountPlace, find_mount
from syncline.core.names import RelPath, escape
from syncline.errors import Invalid, NotFound
from syncline.ports.mount_control import MountStatus


@dataclass(frozen=True, slots=True)
class InMount:
    """Paths in a mount that runs, and what it shows of itself."""

    place: MountPlace
    status: MountStatus
    paths: tuple[RelPath, ...]


InMountBody = Callable[[InMount, Output], ExitCode]


def run_there(
    options: ClientOptions, raws: Sequence[bytes], in_mount: InMountBody, in_volume: Body
) -> int:
    """Run a command in the running mount that all paths are in, else on a volume.

    Who names a server or a volume means paths of that volume. Return the exit code.
    """
    found: list[InMount] = []

    def look(output: Output) -> ExitCode:
        found.extend(_look(options, raws))
        return in_mount(found[0], output) if found else ExitCode.OK

    code = run_plain(look, options.verbosity, is_json=options.is_json)
    return code if found or code else run_client(options, in_volume)


def _look(options: ClientOptions, raws: Sequence[bytes]) -> list[InMount]:
    """Return the mount that all paths are in, or nothing; raise Invalid for several places."""
    if options.server is not None or options.volume is not None:
        return []
    running: dict[MountPlace, MountStatus] = {}
    named: list[tuple[MountPlace, RelPath]] = []
    for raw in raws:
        found = _find(raw)
        if found is None:
            continue
        place = found[0]
        if place not in running:
            try:
                running[place] = ask_status(place.state)
            except NotFound:
                continue
        named.append(found)
    if not named:
        return []
    if len(named) != len(raws) or len(running) > 1:
        raise Invalid(
            "the paths are not all in one running mount; name those of one at a time",
            field="path",
            reason="several mounts",
        )
    [(place, status)] = running.items()
    return [InMount(place, status, tuple(path for _, path in named))]


def _find(raw: bytes) -> tuple[MountPlace, RelPath] | None:
    """Return the mount that a path lies in, and the path in it; its last name may be a link."""
    above, name = os.path.split(raw.rstrip(b"/") or raw[:1])
    real = os.path.realpath(raw)
    ways = [(real, real)]
    if name not in (b"", b".", b".."):
        there = os.path.realpath(above)
        ways.insert(0, (there, os.path.join(there, name)))
    for start, path in ways:
        try:
            place = find_mount(start)
        except NotFound:
            continue
        root = os.fsencode(place.directory).rstrip(b"/")
        return place, _inside(path[len(root) + 1 :])
    return None


def _inside(raw: bytes) -> RelPath:
    try:
        return RelPath.parse(raw)
    except Invalid as error:
        raise Invalid(
            f"'{escape(raw)}' is never synced: {error.message}", **error.fields
        ) from error
