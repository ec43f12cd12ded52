"""What a human agreed to, and how it is used up (B2 of `core.safety`)."""

from __future__ import annotations

import pytest

from syncline.core.safety import (
    Consent,
    Halt,
    HaltReason,
    is_agreed,
    is_told_as_confirmed,
    left_of,
)

DELETE, REMOVAL, EMPTIED = (
    HaltReason.MASS_DELETE,
    HaltReason.MASS_REMOVAL,
    HaltReason.ROOT_EMPTIED,
)


@pytest.mark.parametrize(
    ("consent", "reason", "count", "expected"),
    [
        (None, DELETE, 25, False),
        (Consent(DELETE, 25), DELETE, 25, True),
        (Consent(DELETE, 25), DELETE, 26, False),
        (Consent(EMPTIED, 25), DELETE, 25, True),
        (Consent(REMOVAL, 25), DELETE, 25, False),
        (Consent(REMOVAL, 25), REMOVAL, 25, True),
        (Consent(DELETE, 25), REMOVAL, 1, False),
        (Consent(DELETE, 25), EMPTIED, 25, False),
    ],
)
def test_a_consent_is_for_its_kind_and_number(
    consent: Consent | None, reason: HaltReason, count: int, expected: bool
) -> None:
    assert is_agreed(consent, Halt(reason, "", "", count)) is expected


def test_a_consent_is_used_up_by_what_it_allows() -> None:
    consent = left_of(Consent(DELETE, 25), 25, 0)
    assert consent == Consent(DELETE, 25)
    consent = left_of(consent, 3, 0)
    assert consent == Consent(DELETE, 3)
    assert not is_agreed(consent, Halt(DELETE, "", "", 30))
    assert left_of(consent, 0, 100) is None
    assert left_of(Consent(REMOVAL, 9), 100, 4) == Consent(REMOVAL, 4)
    assert left_of(None, 5, 5) is None


def test_only_deletes_that_are_sent_are_told_as_confirmed() -> None:
    assert is_told_as_confirmed(Consent(DELETE, 1))
    assert is_told_as_confirmed(Consent(EMPTIED, 1))
    assert not is_told_as_confirmed(Consent(REMOVAL, 1))
    assert not is_told_as_confirmed(None)
