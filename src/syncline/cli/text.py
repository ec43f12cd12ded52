"""Text that is safe on a terminal and in a log."""

from __future__ import annotations


def plain(text: str) -> str:
    """Return a text whose unprintable characters, those of a hostile server too, are escaped."""
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text
    )
