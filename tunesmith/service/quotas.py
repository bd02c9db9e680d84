"""What one key may use: requests per minute, bytes of files, unfinished jobs. Answers are OpenAI's 429."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tunesmith.service.refusals import Refusal
from tunesmith.store.blobs import OverQuota


@dataclass(frozen=True, slots=True)
class Quotas:
    """Per key; 0 is no limit."""

    requests_per_minute: int = 0
    storage_bytes: int = 10 * 2**30
    unfinished_jobs: int = 100


class Rates:
    """A bucket of requests per key, filled evenly over the minute. Kept in memory: a restart forgives."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self.per_minute, self.clock = per_minute, clock
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: str) -> dict[str, str]:
        """Count a request; the headers that tell the client how many it has left.

        Raises:
            Refusal: 429 with the time to wait.
        """
        if not self.per_minute:
            return {}
        now, every = self.clock(), 60 / self.per_minute
        with self._lock:
            if len(self._buckets) > 10_000:
                self._buckets = {k: v for k, v in self._buckets.items() if now - v[1] < 60}
            left, last = self._buckets.get(key, (float(self.per_minute), now))
            left = min(self.per_minute, left + (now - last) / every)
            allowed = left >= 1
            self._buckets[key] = (left - allowed, now)
        headers = {"x-ratelimit-limit-requests": str(self.per_minute),
                   "x-ratelimit-remaining-requests": str(int(left - allowed)),
                   "x-ratelimit-reset-requests": f"{(self.per_minute - left + allowed) * every:.3f}s"}
        if not allowed:
            wait = (1 - left) * every
            raise Refusal(
                f"Rate limit reached: {self.per_minute} requests per minute. Please try again in {wait:.1f}s.",
                status=429, kind="requests", code="rate_limit_exceeded",
                headers={**headers, "retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))})
        return headers


def over_quota(error: OverQuota) -> Refusal:
    """OpenAI's answer to a full account; trying again at once would not help."""
    return Refusal(f"You exceeded your current quota: {error}", status=429, kind="insufficient_quota",
                   code="insufficient_quota", headers={"x-should-retry": "false"})
