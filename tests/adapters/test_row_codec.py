from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.adapters.row_codec import (
    CODE_NUMBERS,
    decode_answer,
    decode_manifest,
    encode_answer,
    encode_manifest,
    entry_of,
    row_of,
)
from syncline.core.changes import Accepted, Answer, Holder, Refusal, RefusalCode
from syncline.core.entries import Entry, Kind
from syncline.core.identity import EMPTY_DIGEST, digest_of
from syncline.core.manifests import EMPTY_CONTENT, ChunkRef, Content, single_chunk
from syncline.errors import Corrupt
from tests.support.trees import file

ids = st.binary(min_size=16, max_size=16)
digests = st.sampled_from([EMPTY_DIGEST, digest_of(b"1"), digest_of(b"2")])
revisions = st.integers(0, 2**63 - 1)
refs = st.builds(ChunkRef, digests, st.integers(0, 2**32 - 1))
contents = st.one_of(
    st.builds(Content, digests, st.integers(0, 2**40), st.integers(0, 1), st.tuples(refs)),
    st.builds(
        Content,
        digests,
        st.integers(0, 2),
        st.integers(0, 1),
        st.lists(refs, max_size=3).map(tuple),
    ),
    st.builds(single_chunk, digests, st.integers(0, 2**20)),
)
entries = st.builds(
    Entry,
    ids,
    revisions,
    ids,
    st.binary(min_size=1, max_size=255),
    st.sampled_from(Kind),
    st.integers(0, 0o777),
    st.integers(-(2**63), 2**63 - 1),
    st.none() | contents,
    st.none() | st.binary(max_size=50),
    st.booleans(),
)
seconds = st.floats(allow_nan=False)
holders = st.builds(Holder, st.text(), ids, seconds, seconds)
refusals = st.builds(
    Refusal,
    st.sampled_from(RefusalCode),
    st.none() | entries,
    st.none() | holders,
    st.lists(digests, max_size=3).map(tuple),
    st.text() | st.just("\udcff"),
)
accepted = st.builds(Accepted, revisions | st.just(5), revisions | st.just(0))
answers = st.builds(
    Answer,
    revisions | st.just(5),
    st.lists(accepted | refusals, max_size=6).map(tuple),
    st.booleans(),
)


@given(entries)
def test_a_state_survives_its_row(entry: Entry) -> None:
    assert entry_of(row_of(entry)) == entry


@given(contents)
def test_a_manifest_survives(content: Content) -> None:
    manifest = encode_manifest(content)
    assert decode_manifest(content.digest, content.size, manifest) == content


@given(answers)
def test_an_answer_survives_to_the_byte(answer: Answer) -> None:
    encoded = encode_answer(answer)
    assert decode_answer(encoded) == answer
    assert encode_answer(decode_answer(encoded)) == encoded


@given(answers, st.data())
def test_a_cut_answer_is_corrupt(answer: Answer, data: st.DataObject) -> None:
    encoded = encode_answer(answer)
    with pytest.raises(Corrupt):
        decode_answer(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(Corrupt):
        decode_answer(encoded + b"\0")


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_corrupt(raw: bytes) -> None:
    try:
        answer = decode_answer(raw)
    except Corrupt as error:
        assert error.fields["what"] == "metadata"
    else:
        assert isinstance(answer, Answer)


def test_each_refusal_has_a_number_of_its_own() -> None:
    assert CODE_NUMBERS.keys() == set(RefusalCode)
    assert len(set(CODE_NUMBERS.values())) == len(RefusalCode)


def test_short_content_needs_no_manifest() -> None:
    assert encode_manifest(EMPTY_CONTENT) is None
    assert encode_manifest(single_chunk(digest_of(b"1"), 1)) is None
    created = Answer(5, (Accepted(5, 0),) * 2048)  # type: ignore[arg-type]
    assert len(encode_answer(created)) == 13 + 2048


@pytest.mark.parametrize("manifest", [b"", b"\0" * 36, b"\2" + b"\0" * 36, b"\0" * 38])
def test_a_garbled_manifest_is_corrupt(manifest: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_manifest(EMPTY_DIGEST, 0, manifest)


def test_an_unknown_kind_is_corrupt() -> None:
    row = row_of(file("a"))
    with pytest.raises(Corrupt):
        entry_of((*row[:4], 9, *row[5:]))
