"""What stands in the ledger: files, batches and their lines. Pure.

    validating ──▶ in_progress ──▶ finalizing ──▶ completed
        │               ├────────────────────────▶ expired
        ▼               └──▶ cancelling ─────────▶ cancelled
      failed

The names are OpenAI's. A batch whose window is over stays in_progress until its lines have
come back and its files are written; then it has expired.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tasks.messages import Endpoint


class BatchStatus(StrEnum):
    """Where a batch is in its life."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ADVANCES: dict[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELLING, BatchStatus.EXPIRED}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED}),
    BatchStatus.CANCELLING: frozenset({BatchStatus.CANCELLED}),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELLED: frozenset(),
}
ENDED = frozenset(status for status, onward in ADVANCES.items() if not onward)


class Kind(StrEnum):
    """What a batch came from, which decides where its result goes."""

    FILE = "file"
    """A file of lines; the results go to an output and an error file."""
    CALL = "call"
    """One `celery call`: its only line holds its body, and its result is the Celery result of the task of its id."""


class LineState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    """Its call is in Redis: queued or with a worker."""
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file on disk. Times are Unix seconds. `owner` is the name of an API key; "" where no keys are asked for."""

    id: str
    """`file-` and 24 hex digits."""
    owner: str
    name: str
    purpose: str
    """`batch` for what a batch is made of, `batch_output` for what comes of one; OpenAI's others are refused."""
    size: int
    created_at: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a batch failed its validation. `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Lines of a batch. What is neither completed nor failed waits or runs."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One batch. Times are Unix seconds; None: that has not happened."""

    id: str
    """`batch_` and 24 hex digits; of a call, the id of its Celery task."""
    kind: Kind
    owner: str
    endpoint: Endpoint | None
    """None: each line says its own (`tasks.batch`)."""
    input_file_id: str
    """"" for a call."""
    status: BatchStatus
    created_at: int
    expires_at: int
    window: str = "24h"
    max_lines: int | None = None
    """A file of more lines fails its validation; None: any number."""
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_expires_after_s: int | None = None
    """How long its output and error files are kept after they were made; None: until they are deleted."""
    metadata: dict[str, str] = field(default_factory=dict)
    flaws: tuple[Flaw, ...] = ()
    counts: Counts = Counts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of a batch. Its body stands in the input file, at `offset`, unless it is a call's."""

    number: int
    """From 1, in the order of the file."""
    custom_id: str
    model: str
    """As the line has it: maybe an alias, maybe nobody's."""
    endpoint: Endpoint
    offset: int = 0
    length: int = 0
    """Bytes of the whole line in the file."""
    prefix: str = ""
    """Equal for lines whose prompts begin alike, so that an engine's prefix cache serves them (16 hex digits)."""
    body: bytes = field(default=b"", repr=False)
    """Of a call only; a file's lines are read when they are due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A line that runs: its attempt, from 1, names its request in Redis."""

    batch: str
    line: Line
    attempt: int
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a line ended. `body` is the answer's JSON, or the error's (`{"error": …}`); empty when it never ran.

    `code` is one of `tasks.errors` and None for an answer.
    """

    batch: str
    number: int
    request_id: str
    status_code: int
    body: bytes = field(repr=False)
    code: str | None = None
    message: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def ok(self) -> bool:
        return self.code is None
