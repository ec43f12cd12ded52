"""The client's side of one STORE: it writes, loads chunks and reads answers at the same time.

S1  The reader never waits for the writer: a server that asks while we send cannot lock up with us.
S2  What the server says wins over a failed write: only reading tells why a call ended.
S3  Memory is a few chunks of read-ahead, and the digests that the server may still wait for.
S4  A server that did not say that it takes compressed chunks gets plain ones.
"""

from __future__ import annotations

import asyncio

from syncline.core.bodies import ChunkBody, Compressed, plain_bytes
from syncline.core.changes import Answer, Proposal
from syncline.errors import ProtocolBroken, Unavailable
from syncline.ports.link import ChunkSource
from syncline.rpc.calls import StreamCall, only_error, server_said, timed_out
from syncline.rpc.convert_answers import AnswerReader, Wanted, missing_from_pb
from syncline.rpc.convert_entries import invalid
from syncline.rpc.convert_store import begin_to_pb, change_frames
from syncline.rpc.frames import STORE_FIELD, ChunkPacker
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

_READ_AHEAD_CHUNKS = 8
"""2 MiB on average, 8 MiB at most: the disk works while the network does."""

_WANTED_MAX = 262_144
"""Digests asked for and not sent yet: 64 GiB of content in about 25 MiB of memory."""

_Call = StreamCall[pb.StoreRequest, pb.StoreResponse]


class StoreCall:
    """One STORE on an open call; `timeout_s` bounds the time without progress either way."""

    def __init__(
        self,
        call: _Call,
        volume: str,
        proposal: Proposal,
        source: ChunkSource,
        timeout_s: float,
    ) -> None:
        self._call = call
        self._volume = volume
        self._proposal = proposal
        self._source = source
        self._timeout_s = timeout_s
        self._deadline = asyncio.timeout(timeout_s)
        self._wanted: asyncio.Queue[Wanted] = asyncio.Queue(_WANTED_MAX)
        self._chunks: asyncio.Queue[ChunkBody] = asyncio.Queue(_READ_AHEAD_CHUNKS)

    async def run(self) -> Answer:
        """Carry it out, once; return the answer or raise the one typed error it ended with."""
        try:
            async with self._deadline:
                return await self._exchange()
        except TimeoutError as error:
            if not self._deadline.expired():
                raise
            raise timed_out(self._timeout_s) from error

    async def _exchange(self) -> Answer:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._write()), group.create_task(self._load())]
                answer = await self._read()
                for task in tasks:
                    task.cancel()
                return answer
        except BaseExceptionGroup as errors:
            failure = only_error(errors)
        raise failure

    def _progress(self) -> None:
        if not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)

    async def _send(self, request: pb.StoreRequest | bytes) -> bool:
        is_open = await self._call.write(request)
        self._progress()
        return is_open

    async def _write(self) -> None:
        """Send the proposal, then chunks as they are loaded, until the call is over (S2)."""
        if not await self._send(pb.StoreRequest(begin=begin_to_pb(self._volume, self._proposal))):
            return
        for changes in change_frames(self._proposal):
            if not await self._send(pb.StoreRequest(changes=changes)):
                return
        packer = ChunkPacker(STORE_FIELD)
        while True:
            frames = packer.flush() if self._chunks.empty() else iter(())
            for frame in frames:
                if not await self._send(frame):
                    return
            for frame in packer.add(await self._chunks.get()):
                if not await self._send(frame):
                    return

    async def _load(self) -> None:
        """Read what the server asked for, in order, a little ahead of the writer (S3)."""
        while True:
            wanted = await self._wanted.get()
            chunk = await self._source(wanted.digest)
            if isinstance(chunk, Compressed) and not wanted.may_be_zstd:
                chunk = await asyncio.to_thread(plain_bytes, chunk)  # S4
            self._progress()
            await self._chunks.put(chunk)

    async def _read(self) -> Answer:
        """Read to the end of the call; queue what the server lacks (S1)."""
        reader = AnswerReader(len(self._proposal.changes))
        try:
            while (response := await self._call.read_slowly()) is not None:
                self._progress()
                with server_said():
                    self._take(response, reader)
        except Unavailable:
            # What happens to the connection after a whole answer changes nothing about it.
            if reader.answer is None:
                raise
        if reader.answer is None:
            raise ProtocolBroken("the server ended a STORE without an answer")
        return reader.answer

    def _take(self, response: pb.StoreResponse, reader: AnswerReader) -> None:
        if reader.answer is not None:
            raise invalid("part", "something follows the whole answer")
        match response.WhichOneof("part"):
            case "missing":
                for wanted in missing_from_pb(response.missing):
                    if self._wanted.full():
                        raise invalid("missing", "more chunks are asked for than can be kept")
                    self._wanted.put_nowait(wanted)
            case "committed":
                reader.add(response.committed)
            case "granted":
                pass
            case _:
                raise invalid("part", "the message says nothing that is known")
