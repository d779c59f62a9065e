"""What a silent stream says, so that neither its client nor a proxy takes it for dead: comments."""

from __future__ import annotations

from collections.abc import Callable

from tasks.requests.cold_start import Standing
from webapp import sse

PROGRESS_EVERY_S = 2.0


class KeepAlive:
    """Of one stream. With `standing`, it says how the request stands as long as it waits for a worker."""

    def __init__(self, dialect: sse.Dialect, ping_s: float, standing: Callable[[], Standing | None] | None = None):
        self._dialect = dialect
        self._ping_s = ping_s
        self._standing = standing
        self._waits = standing is not None

    @property
    def every_s(self) -> float:
        """After so long a silence the next comment is due."""
        return min(self._ping_s, PROGRESS_EVERY_S) if self._waits else self._ping_s

    def comment(self) -> bytes:
        standing = self._standing() if self._standing is not None else None
        self._waits = standing is not None
        return self._dialect.ping if standing is None else self._dialect.comment(progress(standing))


def progress(standing: Standing) -> str:
    """Return `celerity position=3 state=loading percent=40 text=…`; what is not known is left out, the text is last."""
    parts = ["celerity"]
    if standing.position is not None:
        parts.append(f"position={standing.position}")
    parts.append(f"state={standing.state}")
    if standing.progress is not None:
        parts.append(f"percent={round(100 * standing.progress)}")
    return " ".join([*parts, f"text={standing.text}"])
