"""What commands say: exit codes, hints, lines, objects, and streams that close."""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline import errors
from syncline.cli.exits import ExitCode, exit_code, hint
from syncline.cli.output import Output, error_record, sentence
from syncline.cli.records import (
    change_line,
    commit_record,
    local_text,
    located_line,
    located_record,
    outcome_line,
    outcome_record,
    size_text,
    stat_lines,
    utc_text,
    volume_lines,
    volume_record,
)
from syncline.cli.report import CommandReport, combine
from syncline.cli.text import plain
from syncline.core.changes import Author
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    EMPTY_DIGEST,
    ROOT_ID,
    CommitId,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    VolumeId,
)
from syncline.core.manifests import single_chunk
from syncline.core.names import Name, RelPath, unescape
from syncline.core.table import Commit, Head
from syncline.ports.link import Committed, Effect, Located, PathChange, ServerFacts
from syncline.ports.report import PathOutcome, Result

CLI_DOC = Path(__file__).parents[2] / "docs" / "CLI.md"
RAW = b"a\n\xff\\b/\xc3\xa9"
SHOWN = "a\\x0a\\xff\\\\b/é"


def entry(kind: Kind, **changes: object) -> Entry:
    values: dict[str, object] = {
        "id": EntryId(b"i" * 16),
        "revision": Revision(7),
        "parent": ROOT_ID,
        "name": Name(b"n"),
        "kind": kind,
        "mode": 0o644,
        "mtime_ns": 1_700_000_000_123_456_789,
        "content": single_chunk(Digest(b"d" * 32), 2048) if kind is Kind.FILE else None,
        "target": b"to\x1b" if kind is Kind.LINK else None,
    }
    return Entry(**{**values, **changes})


def located(kind: Kind, raw: bytes = RAW) -> Located:
    return Located(RelPath.parse(raw), entry(kind), "anna@laptop", 1_700_000_001_000_000_000)


class TestExits:
    @pytest.mark.parametrize("kind", errors.all_errors())
    def test_each_error_has_a_code_and_a_hint(self, kind: type[errors.SynclineError]) -> None:
        error = kind("it went wrong")
        assert exit_code(error) is not ExitCode.OK
        assert len(hint(error)) > 10
        assert not hint(error).endswith(".")

    def test_the_documented_table_is_this_one(self) -> None:
        rows = re.findall(r"(?m)^\| (\d+) \|([^|]*)\|", CLI_DOC.read_text("utf-8"))
        assert [int(number) for number, _ in rows] == [code.value for code in ExitCode]
        for kind in errors.all_errors():
            code = exit_code(kind("x"))
            cell = next(text for number, text in rows if int(number) == code)
            assert f"`{kind.code}`" in cell

    def test_failures_of_one_kind_give_their_code_and_others_partial(self) -> None:
        stale, local = ExitCode.STALE, ExitCode.LOCAL
        assert combine(Counter(), is_all_failed=False) is ExitCode.OK
        assert combine(Counter({stale: 2}), is_all_failed=True) is stale
        assert combine(Counter({stale: 2}), is_all_failed=False) is ExitCode.PARTIAL
        assert combine(Counter({stale: 1, local: 1}), is_all_failed=True) is ExitCode.PARTIAL


class TestText:
    def test_control_characters_are_escaped_and_letters_are_not(self) -> None:
        assert plain("é ok") == "é ok"
        assert plain("a\x1b[2Jb\n\u202e\udcff") == "a\\x1b[2Jb\\x0a\\xe2\\x80\\xae\\xff"

    def test_times(self) -> None:
        assert utc_text(0) == "1970-01-01T00:00:00.000000Z"
        assert utc_text(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
        assert utc_text(-1) == "1969-12-31T23:59:59.999999Z"
        for extreme in (-(2**63), 2**63 - 1):
            assert utc_text(extreme).endswith("Z")
            assert len(local_text(extreme)) == 19

    def test_sizes(self) -> None:
        sizes = [0, 1023, 1024, 1536 * 1024, 5 * 2**50]
        assert [size_text(size) for size in sizes] == [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "1.5 MiB",
            "5120.0 TiB",
        ]

    @pytest.mark.parametrize(
        ("message", "said"),
        [
            ("it is gone", "a: it is gone; HINT"),
            ("'a' is gone", "'a' is gone; HINT"),
            ("there is no 'a'", "there is no 'a'; HINT"),
            ("a: gone", "a: gone; HINT"),
            ("gone; run", "a: gone; run"),
        ],
    )
    def test_a_sentence_names_path_and_advice_once(self, message: str, said: str) -> None:
        error = errors.NotFound(message)
        assert sentence(error, path="a") == said.replace("HINT", hint(error))
        assert sentence(errors.NotFound("gone")) == f"gone; {hint(error)}"

    def test_what_grpc_says_is_no_advice(self) -> None:
        error = errors.Unavailable("refused; last error: x")
        assert sentence(error).endswith(f"x; {hint(error)}")


class TestRecords:
    def test_paths_come_back_from_json(self) -> None:
        outcome = PathOutcome(
            Result.STORED, RelPath.parse(RAW), b"/tmp/\xfe", Revision(12), Revision(9), 5
        )
        record = json.loads(json.dumps(outcome_record(outcome)))
        assert record == {
            "path": SHOWN,
            "local": "/tmp/\\xfe",
            "result": "stored",
            "revision": 12,
            "replaced": 9,
            "size": 5,
        }
        assert unescape(record["path"]) == RAW

    def test_a_failed_path(self) -> None:
        error = errors.Stale("it moved on", current="9")
        record = outcome_record(PathOutcome(Result.FAILED, RelPath.parse(b"a"), error=error))
        assert record == {
            "path": "a",
            "local": None,
            "result": "failed",
            "error": {"code": "stale", "message": "it moved on", "fields": {"current": "9"}},
        }
        assert error_record(error) == record["error"]

    @pytest.mark.parametrize(
        ("outcome", "line"),
        [
            (
                PathOutcome(Result.STORED, RelPath.parse(b"a"), b"a", Revision(12), Revision(9)),
                "stored     a  revision 12 (replaced 9)",
            ),
            (
                PathOutcome(Result.STORED, RelPath.parse(RAW), b"a", Revision(12)),
                f"stored     {SHOWN}  revision 12 (new)",
            ),
            (
                PathOutcome(Result.FETCHED, RelPath.parse(b"a"), b"x/\x1b", Revision(3)),
                "fetched    a  revision 3 to x/\\x1b",
            ),
            (
                PathOutcome(Result.DELETED, RelPath.parse(b"a"), None, Revision(4)),
                "deleted    a  revision 4",
            ),
            (
                PathOutcome(Result.UNCHANGED, RelPath.parse(b"a"), b"a", Revision(4)),
                "unchanged  a  revision 4",
            ),
        ],
    )
    def test_outcome_lines(self, outcome: PathOutcome, line: str) -> None:
        assert outcome_line(outcome) == line

    def test_a_file(self) -> None:
        record = located_record(located(Kind.FILE))
        assert record == {
            "path": SHOWN,
            "kind": "file",
            "revision": 7,
            "size": 2048,
            "mode": "0644",
            "mtime": "2023-11-14T22:13:20.123456Z",
            "mtime_ns": 1_700_000_000_123_456_789,
            "digest": b"d".hex() * 32,
            "target": None,
            "id": b"i".hex() * 16,
            "author": "anna@laptop",
            "time": "2023-11-14T22:13:21.000000Z",
            "time_ns": 1_700_000_001_000_000_000,
        }
        line = located_line(located(Kind.FILE))
        assert re.fullmatch(r"-rw-r--r--\s+2048  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\s+7  .*", line)
        assert line.endswith(SHOWN)
        assert "  size      2048 (2.0 KiB)" in stat_lines(located(Kind.FILE))

    def test_a_directory_has_no_time_and_a_slash(self) -> None:
        record = located_record(located(Kind.DIRECTORY, b"d"))
        assert (record["mtime"], record["mtime_ns"], record["digest"]) == (None, None, None)
        line = located_line(located(Kind.DIRECTORY, b"d"))
        assert line.startswith("drw-r--r--")
        assert line.endswith("  d/")

    def test_a_link_shows_its_target_escaped(self) -> None:
        assert located_record(located(Kind.LINK, b"l"))["target"] == "to\\x1b"
        assert located_line(located(Kind.LINK, b"l")).endswith("l -> to\\x1b")

    def test_the_volume(self) -> None:
        head = Head(Revision(5), CommitId(b"c" * 32), 255)
        facts = ServerFacts(1, 1, "1.0\x1b", frozenset(), VolumeId(b"v" * 16), "default", head)
        record = volume_record(facts)
        assert (record["kind"], record["revision"], record["path"]) == ("root", 5, "")
        assert record["table_digest"] == "ff".rjust(64, "0")
        assert all("\x1b" not in line for line in volume_lines(facts))

    def test_commits(self) -> None:
        author = Author(ReplicaId(b"r" * 16), "eve\x1b@host")
        state = entry(Kind.FILE)
        commit = Commit(
            Revision(7), CommitId(b"c" * 32), author, OpId(b"o" * 16), 0, False, (state,), 0
        )
        moved = PathChange(Effect.MOVED, RelPath.parse(b"new"), RelPath.parse(b"old"), state)
        chmod = PathChange(Effect.MODE, RelPath.parse(b"m"), None, state)
        committed = Committed(commit, (moved, chmod), {})
        record = commit_record(committed, [moved])
        assert record == {
            "revision": 7,
            "commit": b"c".hex() * 32,
            "author": "eve\x1b@host",
            "replica": b"r".hex() * 16,
            "time": "1970-01-01T00:00:00.000000Z",
            "time_ns": 0,
            "changes": [
                {
                    "effect": "moved",
                    "path": "new",
                    "old_path": "old",
                    "kind": "file",
                    "size": 2048,
                    "digest": b"d".hex() * 32,
                    "mode": "0644",
                    "id": b"i".hex() * 16,
                }
            ],
        }
        assert change_line(committed, moved).endswith("eve\\x1b@host  moved    old -> new")
        assert change_line(committed, chmod).endswith("  mode     m  0644")

    def test_the_document_has_every_field(self) -> None:
        document = CLI_DOC.read_text("utf-8")
        facts = ServerFacts(
            1, 1, "1", frozenset(), VolumeId(bytes(16)), "v", Head(Revision(0), CommitId(b""), 0)
        )
        commit = Commit(
            Revision(1),
            CommitId(EMPTY_DIGEST),
            Author(ReplicaId(bytes(16)), "a"),
            OpId(bytes(16)),
            0,
            False,
            (),
            0,
        )
        change = PathChange(Effect.CREATED, RelPath.parse(b"a"), None, entry(Kind.FILE))
        committed = Committed(commit, (change,), {})
        records = [
            located_record(located(Kind.FILE)),
            volume_record(facts),
            commit_record(committed, [change]),
            outcome_record(PathOutcome(Result.STORED, RelPath())),
            outcome_record(PathOutcome(Result.FAILED, RelPath(), error=errors.Stale("x"))),
        ]
        for record in records:
            for name in record:
                assert f"`{name}`" in document, name


@contextmanager
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    streams = io.BytesIO(), io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", io.TextIOWrapper(streams[0], "ascii"))
        patch.setattr("sys.stderr", io.TextIOWrapper(streams[1], "ascii"))
        yield streams


def run_report(output: Output, results: list[Result]) -> ExitCode:
    report = CommandReport(output)
    report.expect(len(results), 0)
    report.advance(0)
    for number, result in enumerate(results):
        error = errors.NotFound("there is nothing") if result is Result.FAILED else None
        report.finish(PathOutcome(result, RelPath.parse(b"p%d" % number), error=error))
    return report.conclude()


class TestReport:
    def test_half_a_failure_is_partial_and_says_how_many(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with captured(monkeypatch) as (out, err):
            results = [Result.STORED, Result.FAILED, Result.FAILED]
            code = run_report(Output(is_json=False), results)
            lines, complaints = out.getvalue().decode(), err.getvalue().decode().splitlines()
        assert code is ExitCode.PARTIAL
        assert lines.splitlines() == [
            "stored     p0  revision 0 (new)",
            "3 paths: 1 stored, 2 failed; 0 B",
        ]
        assert complaints[0] == (
            "syncline: p1: there is nothing; see what is there with 'syncline list'"
        )
        assert complaints[-1] == "syncline: 2 of 3 paths failed"

    def test_json_has_one_object_a_path_and_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with captured(monkeypatch) as (out, _):
            code = run_report(Output(is_json=True), [Result.FAILED, Result.FAILED])
            records = [json.loads(line) for line in out.getvalue().splitlines()]
        assert code is ExitCode.NOT_FOUND
        assert [record["result"] for record in records] == ["failed", "failed"]

    def test_one_path_has_no_summary(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with captured(monkeypatch) as (out, err):
            assert run_report(Output(is_json=False), [Result.DELETED]) is ExitCode.OK
            assert out.getvalue() == b"deleted    p0  revision 0\n"
            assert err.getvalue() == b""


class TestStreams:
    def test_output_is_utf8_whatever_the_locale(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with captured(monkeypatch) as (out, _):
            output = Output(is_json=False)
            output.line("é")
            output.record({"a": "é\udcff"})
            assert out.getvalue() == b'\xc3\xa9\n{"a":"\xc3\xa9\\udcff"}\n'

    def test_each_problem_of_a_configuration_is_a_line(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with captured(monkeypatch) as (_, err):
            Output(is_json=False).failure(errors.Invalid("two", problems="one\ntwo"))
            assert err.getvalue() == b"syncline: one\nsyncline: two\n"

    def test_a_closed_pipe_stops_the_command_quietly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        stops: list[ExitCode] = []
        with captured(monkeypatch) as (_, err), os.fdopen(writer, "w") as pipe:
            monkeypatch.setattr("sys.stdout", pipe)
            output = Output(is_json=False)
            with output.stopping(stops.append):
                output.line("a")
                output.line("b")
            assert stops == [ExitCode.PIPE_CLOSED]
            assert err.getvalue() == b""

    def test_a_full_disk_behind_stdout_is_a_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with captured(monkeypatch) as (_, err), Path("/dev/full").open("w") as full:
            monkeypatch.setattr("sys.stdout", full)
            with pytest.raises(SystemExit) as error:
                Output(is_json=False).line("a")
            assert error.value.code == ExitCode.LOCAL
            assert b"the output cannot be written" in err.getvalue()

    def test_without_streams_nothing_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with captured(monkeypatch) as (out, err):
            monkeypatch.setattr("sys.stdout", None)
            monkeypatch.setattr("sys.stderr", None)
            assert run_report(Output(is_json=False), [Result.FAILED]) is ExitCode.NOT_FOUND
            assert (out.getvalue(), err.getvalue()) == (b"", b"")
