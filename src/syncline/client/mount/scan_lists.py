"""Listing a directory: the watch first, then its names, then what is missing (nothing is lost)."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from syncline.client.mount.read import NOT_THERE
from syncline.client.mount.scan_memory import UNREAD_S, VANISHED_S, Listing, Look
from syncline.client.mount.scan_moves import KINDS
from syncline.client.mount.scan_names import examine, is_passed_over, look_at
from syncline.client.mount.scan_pass import Pass
from syncline.client.mount.scan_rules import RulesUnsettled, load_rules, rules_above
from syncline.client.mount.walker import parts_of
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.ignore import IgnoreRules
from syncline.core.names import Name, RelPath
from syncline.ports.files import Directory, FileKind, Status
from syncline.ports.watcher import Mark

Children = Mapping[Name, tuple[EntryId, Seen]]


def list_one(run: Pass, listing: Listing) -> None:
    """List a directory, or go on with what is left of its names."""
    directory = listing.directory
    if not run.is_known(directory) or run.is_ignored(directory):
        return
    if listing.rest is not None:
        _go_on(run, listing)
        return
    try:
        handle = run.open(directory)
    except OSError as error:
        mark = Mark(directory, None, is_written=True)
        run.cannot_open(Look(mark, listing.quiet_s), error)
        return
    try:
        names, rules = _list(run, listing, handle)
    except RulesUnsettled:
        run.wait(Mark(directory, None, is_written=True), SECOND_LOOK_S)
        return
    except OSError as error:
        _cannot_list(run, directory, error)
        return
    _let_go(run, listing)
    if directory == ROOT_ID:
        run.memory.root_trouble = ""
    children = {seen.state.name: (id, seen) for id, seen in run.session.children(directory)}
    above = RelPath(parts_of(run.session, directory) or ())
    _note_missing(run, listing, children, {name for name, _ in names}, rules, above)
    for index, (raw, status) in enumerate(names):
        if not run.has_budget:
            listing.rest = [Name(left) for left, _ in names[index:]]
            run.memory.listings.append(listing)
            return
        _examine_listed(run, listing, children, rules, above, Name(raw), status)


def _let_go(run: Pass, listing: Listing) -> None:
    """Follow a directory that could not be listed before, and look at itself: at its mode (V4)."""
    directory = listing.directory
    if directory == ROOT_ID or run.session.held_of(directory) is None:
        return
    run.release(directory)
    seen = run.session.local(directory)
    assert seen is not None, "the directory is known"
    above = Mark(seen.state.parent, seen.state.name)
    run.memory.looks.append(Look(above, listing.quiet_s))


def _list(
    run: Pass, listing: Listing, handle: Directory
) -> tuple[list[tuple[bytes, Status]], IgnoreRules]:
    directory = listing.directory
    if not run.watcher.add(handle, directory):
        run.memory.is_watch_exhausted = True
    vanished_s = inf if listing.is_settled else _age_of_names(run, handle)
    if load_rules(run, directory, handle, vanished_s=vanished_s):
        # What new rules cover, or do not cover any more, may lie at any depth.
        listing.is_deep = True
    run.memory.note_listed(directory)
    names = sorted(handle.list(), key=lambda each: each[0])
    rules = rules_above(run, directory)
    run.memory.listed.add(directory)
    return names, rules


def _age_of_names(run: Pass, handle: Directory) -> float:
    """Return since when no name came or went, by the mtime of the directory."""
    age_ns = run.clock.wall_ns() - handle.status().mtime_ns
    return age_ns / 1e9 if age_ns >= 0 else inf


def _cannot_list(run: Pass, directory: EntryId, error: OSError) -> None:
    if error.errno in NOT_THERE:
        run.wait(Mark(directory, None, is_written=True), VANISHED_S)
        return
    detail = error.strerror or str(error)
    if directory == ROOT_ID:
        run.memory.root_trouble = detail
    else:
        run.hold(directory, detail)
    run.wait(Mark(directory, None, is_written=True), UNREAD_S)


def _note_missing(
    run: Pass,
    listing: Listing,
    children: Children,
    names: set[bytes],
    rules: IgnoreRules,
    above: RelPath,
) -> None:
    directory = listing.directory
    for name, (id, seen) in children.items():
        if name in names:
            continue
        is_directory = seen.state.is_directory
        if run.is_ignored(id) and rules.is_ignored_here(
            above.child(name), is_directory=is_directory
        ):
            continue
        run.vanish(id, (directory, name), Look(Mark(directory, name), listing.quiet_s))
    for name in run.session.obstacles_in(directory):
        if name not in names:
            run.obstruct((directory, name), None)


def _examine_listed(
    run: Pass,
    listing: Listing,
    children: Children,
    rules: IgnoreRules,
    above: RelPath,
    name: Name,
    status: Status,
) -> None:
    directory = listing.directory
    if is_passed_over(directory, name):
        return
    run.names += 1
    child = children.get(name)
    is_directory = status.kind is FileKind.DIRECTORY
    is_free = not rules.by_directory or not rules.is_ignored_here(
        above.child(name), is_directory=is_directory
    )
    if child is not None and is_free and _is_unchanged(run, *child, status):
        if is_directory and listing.is_deep:
            run.memory.listings.append(Listing(child[0], True, listing.quiet_s))
        return
    quiet_s = inf if listing.is_settled else run.age_s(status)
    look = Look(Mark(directory, name), quiet_s)
    try:
        examine(run, look, status)
    except OSError as error:
        run.trouble(look, error)
    except RulesUnsettled:
        run.wait(look.mark, SECOND_LOOK_S)


def _is_unchanged(run: Pass, id: EntryId, seen: Seen, status: Status) -> bool:
    """Tell whether a known child needs no look of its own."""
    known = seen.fingerprint
    if (
        known is None
        or known.is_provisional
        or run.session.held_of(id)
        or status.device != run.device
    ):
        return False
    if KINDS.get(status.kind) is not seen.state.kind or known.inode != status.inode:
        return False
    if seen.state.is_directory:
        return seen.state.mode == status.mode & MODE_MASK and id in run.memory.listed
    if seen.state.kind is Kind.FILE and seen.state.mode != status.mode & MODE_MASK:
        return False
    return (known.size, known.mtime_ns, known.ctime_ns) == (
        status.size,
        status.mtime_ns,
        status.ctime_ns,
    )


def _go_on(run: Pass, listing: Listing) -> None:
    """Look at names that an earlier call listed: by now they may mean something else."""
    assert listing.rest is not None, "there is something left"
    rest, listing.rest = listing.rest, None
    for index, name in enumerate(rest):
        if not run.has_budget:
            listing.rest = rest[index:]
            run.memory.listings.append(listing)
            return
        id = run.session.child(listing.directory, name)
        if id is not None and listing.is_deep:
            # So that it is listed with all that is in it, if it is a directory.
            run.memory.listed.discard(id)
        look_at(run, Look(Mark(listing.directory, name), listing.quiet_s))
