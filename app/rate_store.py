"""The rate of a key, counted over all replicas: in a Redis or Valkey that they share."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

from app.limits import Limiter, RateLimiter, rate_limited
from app.settings import Settings

logger = logging.getLogger(__name__)

PREFIX = "crosslook"
"""What the names of keys in the store begin with."""

_SECONDS = 1.0  # for the store's answer
_PAUSE = 5.0  # seconds in which a store that failed is not asked again


def limiter_of(settings: Settings) -> Limiter:
    """The limiter that the settings name.

    Raises: RuntimeError where the extra is not installed, ValueError for a URL that is none.
    """
    own = RateLimiter(settings.rate_per_minute)
    if not (settings.rate_store and settings.rate_per_minute):
        return own
    return SharedRateLimiter(settings.rate_store, settings.rate_per_minute, own)


class SharedRateLimiter:
    """`app.limits.RateLimiter` for several replicas (GCRA: the same bucket, kept as one time a caller).

    A request of more questions than a minute's worth costs a minute's worth. While the store does not answer, each
    replica counts for itself, by ``own``: a service must not stand because its counter does.
    """

    def __init__(self, url: str, per_minute: int, own: Limiter) -> None:
        try:  # imported only where it is used
            from redis.exceptions import RedisError
            from throttled.asyncio import Throttled, rate_limiter, store
            from throttled.exceptions import StoreUnavailableError
        except ImportError as error:
            raise RuntimeError("CROSSLOOK_RATE_STORE needs the extra: pip install 'crosslook[redis]'") from error
        options: dict[str, Any] = {"SOCKET_TIMEOUT": _SECONDS, "SOCKET_CONNECT_TIMEOUT": _SECONDS}
        self.per_minute = per_minute
        self._own = own
        self._failures = (RedisError, StoreUnavailableError, OSError, TimeoutError)
        self._paused = 0.0
        self._store = store.RedisStore(server=url, options=options)
        self._throttle = Throttled(
            using="gcra",
            quota=rate_limiter.per_min(per_minute, burst=per_minute),
            store=self._store,
            key_prefix=PREFIX,
        )

    async def spend(self, caller: str, cost: int) -> None:
        """Take ``cost`` from the caller's bucket.

        Raises: `RequestError` ``rate_limited``.
        """
        if time.monotonic() >= self._paused:
            try:
                result = await self._throttle.limit(f"key {caller}", cost=min(cost, self.per_minute))
            except self._failures as error:
                self._paused = time.monotonic() + _PAUSE
                logger.warning("the rate store does not answer (%s); this replica counts for itself", error)
            else:
                if result.limited:
                    raise rate_limited(self.per_minute, result.state.retry_after)
                return
        await self._own.spend(caller, cost)

    async def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(*self._failures):  # the package has no way of its own
            await self._store._backend.get_client().connection_pool.disconnect()
