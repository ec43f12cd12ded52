"""How long each user lock lasts: leases that are renewed, and the end that comes in any case.

Model: all times are seconds of the server's monotonic clock and are passed in. A lock is over when
its lease was not renewed for `lease_s` (0: it needs no renewal), or `ttl_s` after its grant.

V1  What is over is told once, and cannot be renewed any more.
V2  Time in which the server itself did not run is nobody's: `delay` gives it back.
V3  Nobody is told of more time than was given: sums of floats may come back as more than went in.
V4  The grace of a restart is not kept over the next one: else a server that is restarted again and
    again would make a lock longer each time, and it would never end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from syncline.core.changes import HeldToken, Token
from syncline.core.user_locks import SessionKey, UserLock


@dataclass(slots=True)
class _Lease:
    """`renewal_s` and `life_s` are what was given last, of which no more can be left (V3).

    `grace_s` is how much of the life is the grace of a restart (V4).
    """

    held: HeldToken
    session: SessionKey
    lease_s: float
    since_s: float
    renewal_s: float
    renewed_until_s: float
    life_s: float
    over_s: float
    grace_s: float

    @property
    def ends_s(self) -> float:
        return min(self.renewed_until_s, self.over_s)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """A lock's times as of now, in seconds: held for how long, and over when in how many.

    `expires_s`: unless it is renewed; `ends_s`: in any case. `kept_s`: what is left of its life
    after a restart, before the grace of that one (V4).
    """

    since_s: float
    expires_s: float
    ends_s: float
    kept_s: float


@dataclass(slots=True)
class Leases:
    """The leases of one volume. Not thread-safe: one task owns it."""

    _leases: dict[Token, _Lease] = field(default_factory=dict)
    _sessions: dict[SessionKey, set[Token]] = field(default_factory=dict)

    def begin(self, lock: UserLock, now_s: float) -> None:
        """Start the lease of a grant; of a lock that is there, take over what it says now."""
        known = self._leases.get(lock.token)
        since_s = now_s if known is None else known.since_s
        self._put(lock, since_s, lock.lease_s or lock.ttl_s, lock.ttl_s, 0.0, now_s)

    def resume(
        self, lock: UserLock, held_s: float, left_s: float, grace_s: float, now_s: float
    ) -> None:
        """Go on after a restart: what was left, and `grace_s` for the holder to come back."""
        lease_s = min(lock.lease_s, left_s) if lock.lease_s else left_s
        self._put(lock, now_s - held_s, lease_s + grace_s, left_s + grace_s, grace_s, now_s)

    def _put(
        self,
        lock: UserLock,
        since_s: float,
        renewal_s: float,
        life_s: float,
        grace_s: float,
        now_s: float,
    ) -> None:
        key = lock.owner.key
        self._leases[lock.token] = _Lease(
            HeldToken(lock.entry, lock.token),
            key,
            lock.lease_s,
            since_s,
            renewal_s,
            now_s + renewal_s,
            life_s,
            now_s + life_s,
            grace_s,
        )
        self._sessions.setdefault(key, set()).add(lock.token)

    def renew(self, token: Token, now_s: float, ttl_s: float = 0.0) -> bool:
        """Renew a lease, and with `ttl_s` let the lock last so long from now; False: it is over."""
        lease = self._leases.get(token)
        if lease is None:
            return False
        if ttl_s:
            lease.life_s, lease.over_s, lease.grace_s = ttl_s, now_s + ttl_s, 0.0
        renewal_s = lease.lease_s or lease.over_s - now_s
        if now_s + renewal_s > lease.renewed_until_s:
            lease.renewal_s, lease.renewed_until_s = renewal_s, now_s + renewal_s
        return True

    def renew_session(self, session: SessionKey, now_s: float) -> int:
        """Renew all that a session holds; return how many locks that is."""
        tokens = self._sessions.get(session, set())
        for token in tokens:
            self.renew(token, now_s)
        return len(tokens)

    def drop(self, token: Token) -> None:
        """Forget a lock that is over; one that is not known changes nothing."""
        lease = self._leases.pop(token, None)
        if lease is None:
            return
        tokens = self._sessions[lease.session]
        tokens.discard(token)
        if not tokens:
            del self._sessions[lease.session]

    def due(self, now_s: float) -> Sequence[HeldToken]:
        """Return the locks that are over, in the order of their grants, and forget them (V1)."""
        over = sorted(token for token, lease in self._leases.items() if lease.ends_s <= now_s)
        held = [self._leases[token].held for token in over]
        for token in over:
            self.drop(token)
        return held

    def delay(self, by_s: float) -> None:
        """Move every end by the time that the server stood still (V2)."""
        for lease in self._leases.values():
            lease.renewed_until_s += by_s
            lease.over_s += by_s

    def times(self, token: Token, now_s: float) -> LeaseTimes | None:
        """Return a lock's times; None when it is over or not known."""
        lease = self._leases.get(token)
        if lease is None:
            return None
        ends_s = min(max(0.0, lease.over_s - now_s), lease.life_s)
        renewed_s = min(max(0.0, lease.renewed_until_s - now_s), lease.renewal_s)
        kept_s = max(0.0, ends_s - lease.grace_s)
        return LeaseTimes(max(0.0, now_s - lease.since_s), min(renewed_s, ends_s), ends_s, kept_s)

    def left(self, tokens: Iterable[Token], now_s: float) -> dict[Token, LeaseTimes]:
        """Return the times of those locks that are not over."""
        found = ((token, self.times(token, now_s)) for token in tokens)
        return {token: times for token, times in found if times is not None}
