"""Names and paths: N1 to N4."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncline.core.names import (
    NAME_BYTES_MAX,
    PATH_BYTES_MAX,
    Name,
    RelPath,
    escape,
    is_reserved,
    parse_name,
    unescape,
)
from syncline.errors import Invalid

GOOD_NAMES = {
    "plain": b"report.txt",
    "one byte": b"a",
    "255 bytes": b"n" * NAME_BYTES_MAX,
    "three dots": b"...",
    "dot and more": b".hidden",
    "two dots and more": b"..a",
    "trailing dot": b"name.",
    "trailing space": b"name ",
    "only a space": b" ",
    "leading dash": b"-rf",
    "backslash": b"a\\b",
    "colon": b"C:",
    "device of Windows": b"CON",
    "quotes": b"\"'`",
    "newline": b"a\nb",
    "escape character": b"\x1b[31mred",
    "DEL": b"\x7f",
    "not UTF-8": b"\xff\xfe\x80",
    "right-to-left override": "a\u202etxt.exe".encode(),
    "reserved below the root": b".syncline",
}

BAD_NAMES = {
    "empty": (b"", "it is empty"),
    "dot": (b".", "it is a relative directory"),
    "two dots": (b"..", "it is a relative directory"),
    "slash": (b"a/b", "it has a slash"),
    "only a slash": (b"/", "it has a slash"),
    "NUL": (b"a\0b", "it has a NUL byte"),
    "256 bytes": (b"n" * 256, "it has 256 bytes, the limit is 255"),
}


@pytest.mark.parametrize("raw", GOOD_NAMES.values(), ids=GOOD_NAMES.keys())
def test_a_name_that_linux_allows_is_a_name(raw: bytes) -> None:
    assert parse_name(raw) == raw


@pytest.mark.parametrize(("raw", "reason"), BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_bad_name_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_name(raw)
    assert caught.value.fields == {"field": "name", "reason": reason}


@given(st.binary(max_size=300))
@example(b"/")
@example(b"\0")
def test_n1_holds_for_exactly_the_accepted_names(raw: bytes) -> None:
    allowed = 1 <= len(raw) <= 255 and not {0, ord("/")} & set(raw) and raw not in (b".", b"..")
    try:
        parsed = parse_name(raw)
    except Invalid:
        assert not allowed
    else:
        assert allowed
        assert parsed == raw


def test_a_refused_name_is_shown_escaped_and_short() -> None:
    with pytest.raises(Invalid) as caught:
        parse_name(b"\x1b]0;title\n" + b"x" * 5000)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 200


BAD_PATHS = {
    "absolute": b"/etc/passwd",
    "only a slash": b"/",
    "up": b"../x",
    "up in the middle": b"a/../../x",
    "up at the end": b"a/..",
    "here": b"./a",
    "here in the middle": b"a/./b",
    "empty part": b"a//b",
    "trailing slash": b"a/",
    "NUL": b"a/b\0c",
    "name too long": b"a/" + b"n" * 256,
    "over 4,096 bytes": b"/".join([b"n" * 255] * 16) + b"/x",
    "reserved": b".syncline",
    "below the reserved": b".syncline/staging/x",
}


@pytest.mark.parametrize("raw", BAD_PATHS.values(), ids=BAD_PATHS.keys())
def test_a_path_that_could_leave_the_root_or_is_not_clean_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid):
        RelPath.parse(raw)


def test_a_path_of_exactly_4096_bytes_is_a_path() -> None:
    raw = b"/".join([b"n" * 255] * 15) + b"/" + b"m" * 254 + b"/x"
    raw = raw + b"y" * (PATH_BYTES_MAX - len(raw))
    assert len(raw) == PATH_BYTES_MAX
    assert bytes(RelPath.parse(raw)) == raw


names = st.binary(min_size=1, max_size=12).filter(
    lambda raw: not {0, ord("/")} & set(raw) and raw not in (b".", b"..")
)
paths = st.lists(names, max_size=6).filter(lambda parts: parts[:1] != [b".syncline"])


@given(paths)
def test_a_path_comes_back_from_its_bytes(parts: list[bytes]) -> None:
    path = RelPath.parse(b"/".join(parts))
    assert path.parts == tuple(parts)
    assert RelPath.parse(bytes(path)) == path


@given(paths, names)
def test_a_child_is_within_its_parents_and_not_the_reverse(parts: list[bytes], name: bytes) -> None:
    path = RelPath(tuple(map(Name, parts)))
    child = path.child(Name(name))
    assert child.parent == path
    assert child.name == name
    assert child.is_within(path)
    assert child.is_within(child)
    assert child.is_within(RelPath())
    assert not path.is_within(child)


def test_within_goes_by_whole_names() -> None:
    assert not RelPath.parse(b"ab/c").is_within(RelPath.parse(b"a"))


def test_the_root_is_its_own_parent_and_has_no_name() -> None:
    assert RelPath.parse(b"") == RelPath()
    assert RelPath().parent == RelPath()
    with pytest.raises(IndexError):
        _ = RelPath().name


def test_the_reserved_name_is_reserved_at_the_root_alone() -> None:
    assert is_reserved(b".syncline", at_root=True)
    assert not is_reserved(b".syncline", at_root=False)
    assert not is_reserved(b".Syncline", at_root=True)
    assert not is_reserved(b".syncline2", at_root=True)


ESCAPED = {
    "plain": (b"report.txt", "report.txt"),
    "empty": (b"", ""),
    "space": (b"a b", "a b"),
    "unicode": ("größe 漢字".encode(), "größe 漢字"),
    "backslash": (b"a\\b", "a\\\\b"),
    "looks escaped": (b"\\x41", "\\\\x41"),
    "newline": (b"a\nb", "a\\x0ab"),
    "terminal escape": (b"\x1b[2J", "\\x1b[2J"),
    "C1 control": ("\x9b2J".encode(), "\\xc2\\x9b2J"),
    "right-to-left override": ("a\u202eb".encode(), "a\\xe2\\x80\\xaeb"),
    "zero-width joiner": ("a\u200db".encode(), "a\\xe2\\x80\\x8db"),
    "no-break space": ("a\u00a0b".encode(), "a\\xc2\\xa0b"),
    "line separator": ("a\u2028b".encode(), "a\\xe2\\x80\\xa8b"),
    "not UTF-8": (b"caf\xe9", "caf\\xe9"),
    "good and bad": ("é".encode() + b"\xff", "é\\xff"),
    "cut UTF-8": ("漢".encode()[:2], "\\xe6\\xbc"),
    "surrogate as UTF-8": (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    "overlong slash": (b"\xc0\xaf", "\\xc0\\xaf"),
    "unassigned": ("\U000e0fff".encode(), "\\xf3\\xa0\\xbf\\xbf"),
}


@pytest.mark.parametrize(("raw", "text"), ESCAPED.values(), ids=ESCAPED.keys())
def test_escape_writes_what_the_table_says(raw: bytes, text: str) -> None:
    assert escape(raw) == text
    assert unescape(text) == raw


@given(st.binary(max_size=60))
def test_n4_every_bytes_come_back_from_printable_text(raw: bytes) -> None:
    text = escape(raw)
    assert text.isprintable()
    assert unescape(text) == raw


@given(st.text(max_size=40))
def test_n4_every_text_comes_back_too(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    assert unescape(escape(raw)) == raw


@given(st.text(max_size=20))
def test_twins_of_normalising_are_kept_apart(text: str) -> None:
    composed = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
    decomposed = unicodedata.normalize("NFD", text).encode("utf-8", "surrogatepass")
    assert (escape(composed) == escape(decomposed)) == (composed == decomposed)


def test_nfc_and_nfd_twins_are_two_names() -> None:
    composed, decomposed = "é".encode(), "e\u0301".encode()
    assert parse_name(composed) != parse_name(decomposed)
    assert escape(composed) != escape(decomposed)


BAD_ESCAPES = {
    "backslash at the end": "a\\",
    "unknown letter": "\\n",
    "one digit": "\\x4",
    "upper case": "\\xFF",
    "no digits": "\\xzz",
    "surrogate that stands for no byte": "a\ud800",
    "surrogate of an ASCII byte": "\udc41",
}


@pytest.mark.parametrize("text", BAD_ESCAPES.values(), ids=BAD_ESCAPES.keys())
def test_a_text_that_escape_cannot_have_made_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        unescape(text)


@given(st.text(st.characters(codec=None), max_size=20))
def test_unescape_raises_invalid_or_nothing(text: str) -> None:
    try:
        raw = unescape(text)
    except Invalid:
        return
    assert isinstance(raw, bytes)


def test_unescape_takes_arguments_as_python_gives_them() -> None:
    assert unescape(b"caf\xe9".decode("utf-8", "surrogateescape")) == b"caf\xe9"
