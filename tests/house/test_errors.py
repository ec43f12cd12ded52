"""Error classes: codes are for machines, so they never change and never mean two things."""

from __future__ import annotations

import pytest

from syncline.errors import Retry, SynclineError, all_errors

NEVER, BACKOFF, AFTER_USER = Retry.NEVER, Retry.BACKOFF, Retry.AFTER_USER

STABLE = {
    "Internal": ("internal", NEVER),
    "Invalid": ("invalid", AFTER_USER),
    "Unavailable": ("unavailable", BACKOFF),
    "TimedOut": ("timed_out", BACKOFF),
    "Throttled": ("throttled", BACKOFF),
    "TooLarge": ("too_large", AFTER_USER),
    "Denied": ("denied", AFTER_USER),
    "NotSignedIn": ("not_signed_in", AFTER_USER),
    "NoSpace": ("no_space", AFTER_USER),
    "NotFound": ("not_found", AFTER_USER),
    "Exists": ("exists", AFTER_USER),
    "NotEmpty": ("not_empty", AFTER_USER),
    "Stale": ("stale", AFTER_USER),
    "Locked": ("locked", BACKOFF),
    "LockLost": ("lock_lost", AFTER_USER),
    "CursorExpired": ("cursor_expired", AFTER_USER),
    "ProtocolBroken": ("protocol", NEVER),
    "Corrupt": ("corrupt", AFTER_USER),
    "TooNew": ("too_new", AFTER_USER),
    "InUse": ("in_use", AFTER_USER),
    "LocalFailure": ("local_failure", AFTER_USER),
    "Partial": ("partial", AFTER_USER),
}


def test_codes_and_retries_are_what_they_always_were() -> None:
    assert {error.__name__: (error.code, error.retry) for error in all_errors()} == STABLE


def test_no_two_errors_share_a_code() -> None:
    codes = [error.code for error in all_errors()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_an_error_carries_a_message_for_people_and_fields_for_machines(
    error: type[SynclineError],
) -> None:
    raised = error("it went wrong", path="a/b")
    assert str(raised) == raised.message == "it went wrong"
    assert raised.fields == {"path": "a/b"}
    assert error.__doc__
    assert error.code.replace("_", "").isalpha() and error.code.islower()
