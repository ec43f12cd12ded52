"""Content on its way into the mount: small ones slice by slice, large ones staged beside it all.

G1  A slice is placed with what is there; what is not there yet is placed by a later plan.
G2  Large content that no plan wants any more is not fetched further.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.contents import Contents
from syncline.client.mount.fetching import Fetcher
from syncline.client.mount.lane import Lane, loop_s
from syncline.client.mount.patience import Patience
from syncline.client.mount.phases import Phases, Planned
from syncline.client.mount.portions import needed
from syncline.client.mount.staged_content import Inline, StagedFile
from syncline.client.mount.tidings import Tidings
from syncline.client.steady import ENDS_ALL
from syncline.core.identity import Digest, EntryId
from syncline.core.manifests import Content
from syncline.core.names import RelPath
from syncline.core.plans import Alter, Create, Placing
from syncline.errors import SynclineError
from syncline.ports.executor import Executor
from syncline.ports.mount_control import MountProblem

logger = logging.getLogger(__name__)

LARGE_LANES = 2
FAILED_S = 2.0

Gathered = Mapping[Digest, Inline | StagedFile]


class Receiving(Lane):
    """What one mount fetches; all of it belongs to the control task's loop."""

    def __init__(
        self,
        phases: Phases,
        thread: Executor,
        contents: Contents,
        patience: Patience,
        tidings: Tidings,
        wake: Callable[[], None],
    ) -> None:
        super().__init__()
        self._phases = phases
        self._thread = thread
        self._contents = contents
        self._patience = patience
        self._tidings = tidings
        self._wake = wake
        self._large: dict[Digest, asyncio.Task[None]] = {}
        self._is_staging_clean = False

    @property
    def is_idle(self) -> bool:
        """Tell whether no large content is on its way."""
        return not self._large

    async def gather(
        self, actions: Sequence[Placing], planned: Planned, fetcher: Fetcher | None
    ) -> Gathered:
        """Return the small contents of a slice, and those large ones that are staged.

        Without a fetcher, or when the server goes away, what is at hand is returned.
        """
        wanted = {content.digest: content for action in actions if (content := needed(action))}
        small = [each for each in wanted.values() if each.size <= SMALL_BYTES_MAX]
        lacking = [each for each in small if self._contents.get(each.digest) is None]
        if lacking and fetcher is not None and self.pause_until_s is None:
            try:
                failures = await fetcher.small(lacking)
            except SynclineError as error:
                logger.info("fetch_broken code=%s error=%r", error.code, error.message)
                self.pause()
            else:
                self.well()
                self._note_failures(actions, planned, failures)
        found: dict[Digest, Inline | StagedFile] = {}
        for each in small:
            held = self._contents.get(each.digest)
            if held is not None:
                found[each.digest] = Inline(held)
        for each in wanted.values():
            name = self._staged(each, fetcher)
            if name is not None:
                found[each.digest] = StagedFile(name)
        return found

    def _staged(self, content: Content, fetcher: Fetcher | None) -> bytes | None:
        if fetcher is None or content.size <= SMALL_BYTES_MAX:
            return None
        try:
            return fetcher.staged(content.digest)
        except OSError as error:
            self.hand_on(error)
            return None

    def _note_failures(
        self,
        actions: Sequence[Placing],
        planned: Planned,
        failures: Mapping[Digest, SynclineError],
    ) -> None:
        for action in actions:
            content = needed(action)
            if content is None or content.digest not in failures:
                continue
            assert isinstance(action, Create | Alter), "nothing else brings content"
            self._fail(action.id, planned.paths[action.id], failures[content.digest])

    def _fail(self, id: EntryId, path: RelPath, error: SynclineError) -> None:
        logger.warning("fetch_failed path='%s' code=%s error=%r", path, error.code, error.message)
        self._patience.fail(
            id,
            MountProblem(path, error.code, error.message),
            loop_s(),
            is_certain=True,
            at_least_s=FAILED_S,
        )

    # -- large content -----------------------------------------------------------

    def begin_anew(self) -> None:
        """Know that something may have been left where content is staged."""
        self._is_staging_clean = False

    async def tidy(self, planned: Planned) -> None:
        """Remove what is staged of contents that nobody wants any more (G2)."""
        if not (planned.wanted or self._large or self._is_staging_clean):
            await self._thread.run(self._phases.clear_staging)
            self._is_staging_clean = True

    def start(self, planned: Planned, fetcher: Fetcher, group: asyncio.TaskGroup) -> None:
        """Begin to stage the large contents of a plan, and give up what it does not want (G2)."""
        wanted: dict[Digest, tuple[EntryId, Content]] = {}
        for actions in planned.slices:
            for action in actions:
                content = needed(action)
                if content is not None and content.size > SMALL_BYTES_MAX:
                    assert isinstance(action, Create | Alter), "nothing else brings content"
                    wanted.setdefault(content.digest, (action.id, content))
        for digest in self._large.keys() - planned.wanted:
            self._large[digest].cancel()
        if self.pause_until_s is not None:
            return
        for digest, (id, content) in wanted.items():
            if len(self._large) >= LARGE_LANES:
                break
            if digest not in self._large and self._staged(content, fetcher) is None:
                self._is_staging_clean = False
                self._large[digest] = group.create_task(
                    self._stage(fetcher, id, planned.paths[id], content), name="fetch-large"
                )

    async def _stage(self, fetcher: Fetcher, id: EntryId, path: RelPath, content: Content) -> None:
        transfer = self._tidings.download((path, content.size))
        try:
            older = await self._thread.run(self._phases.mounted, id)
            await fetcher.large(content, older, self._phases.root.directory, transfer.advance)
            self.well()
        except ENDS_ALL as error:
            logger.info("fetch_broken code=%s path='%s'", error.code, path)
            self.pause()
        except OSError as error:
            self.hand_on(error)
        except SynclineError as error:
            self._fail(id, path, error)
        finally:
            transfer.end()
            del self._large[content.digest]
            self._wake()
