"""Times counted in buckets: memory does not grow with a run, and a percentile is off by 0.4 % at most."""

from __future__ import annotations

# 256 buckets for every doubling; below that many microseconds, one each.
_BITS = 8
_OCTAVES = 33
_SIZE = (_OCTAVES + 1) << _BITS


class Histogram:
    """Durations from a microsecond to two weeks. Takes and gives seconds."""

    __slots__ = ("_counts", "count", "longest", "total")

    def __init__(self) -> None:
        self._counts = [0] * _SIZE
        self.count = 0
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._counts[_bucket(int(seconds * 1e6))] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def add_zeros(self, count: int) -> None:
        self._counts[0] += count
        self.count += count

    def mean(self) -> float:
        """Return the exact mean. Raises ZeroDivisionError where nothing was added."""
        return self.total / self.count

    def percentile(self, percent: float) -> float:
        """Return a time that `percent` of those added do not exceed. Raises ValueError where nothing was added."""
        if not self.count:
            raise ValueError("an empty histogram has no percentiles")
        rank = self.count * percent / 100
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_middle(bucket) / 1e6, self.longest)
        return self.longest


def _bucket(us: int) -> int:
    shift = us.bit_length() - _BITS - 1
    if shift <= 0:
        return us
    return min((shift << _BITS) + (us >> shift), _SIZE - 1)


def _middle(bucket: int) -> float:
    """Return the microseconds in the middle of a bucket."""
    shift = max(0, (bucket >> _BITS) - 1)
    first = (bucket - (shift << _BITS)) << shift
    return first + ((1 << shift) - 1) / 2
