"""What `celerity batch` says of batches: a table of several, the summary of one that has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from deploy.batch_facts import BatchFacts, time_left_s
from tasks.bulk.records import BatchStatus

_COLOURS = {
    BatchStatus.COMPLETED: "green",
    BatchStatus.FAILED: "red",
    BatchStatus.EXPIRED: "red",
    BatchStatus.CANCELLED: "yellow",
    BatchStatus.CANCELLING: "yellow",
}
_LONGEST_ERROR = 200


def table(batches: Sequence[BatchFacts], now: float) -> Table:
    """Return one line a batch, which fits 80 columns."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("batch", no_wrap=True, min_width=max((len(facts.id) for facts in batches), default=0))
    for title in ("status", "done", "failed", "age", "end"):
        made.add_column(title, justify="right" if title in {"done", "failed"} else "left", no_wrap=True)
    for facts in batches:
        made.add_row(
            facts.id,
            Text(facts.status.replace("_", " "), style=_COLOURS.get(facts.status, "")),
            f"{facts.done}/{facts.total}",
            Text(f"{facts.failed}", style="red" if facts.failed else ""),
            _brief(now - facts.created_at),
            _end(facts, now),
        )
    return made


def _end(facts: BatchFacts, now: float) -> str:
    if facts.ended_at is not None:
        return f"{_brief(now - facts.ended_at)} ago"
    left = time_left_s(facts, now)
    return "" if left is None else f"{_brief(left)} left"


def standing(facts: BatchFacts, now: float) -> list[str]:
    """Return what is to be said of one batch that goes on."""
    left = time_left_s(facts, now)
    lines = [
        f"{facts.id} is {facts.status.replace('_', ' ')}: {_counts(facts)}",
        f"{facts.endpoint or 'several endpoints'}, submitted {spoken(now - facts.created_at)} ago",
    ]
    if left is not None:
        lines.append(f"about {spoken(left)} left, at its pace so far")
    if facts.expires_at is not None:
        lines.append(f"what is not done in {spoken(facts.expires_at - now)} expires")
    return lines


def summary(facts: BatchFacts) -> list[str]:
    """Return what is to be said of a batch that has ended, but where its results are."""
    if facts.status is BatchStatus.FAILED:
        return [f"{facts.id} could not be begun:", *(f"  {flaw}" for flaw in facts.flaws)]
    took = "" if facts.ended_at is None else f", in {spoken(facts.ended_at - facts.created_at)}"
    lines = [f"{facts.id} {_ENDS[facts.status]}: {_counts(facts)}{took}"]
    if facts.tokens_read or facts.tokens_written:
        lines.append(f"{facts.tokens_read:,} tokens read, {facts.tokens_written:,} written")
    return lines


_ENDS = {
    BatchStatus.COMPLETED: "is completed",
    BatchStatus.EXPIRED: "has expired",
    BatchStatus.CANCELLED: "was cancelled",
}


def _counts(facts: BatchFacts) -> str:
    rest = facts.total - facts.finished
    unfinished = f", {rest:,} {'without an answer' if facts.ended else 'to go'}" if rest else ""
    return f"{lines_of(facts.total)}, {facts.done:,} done, {facts.failed:,} failed{unfinished}"


def lines_of(count: int) -> str:
    return "1 line" if count == 1 else f"{count:,} lines"


def error_of_line(raw: bytes) -> str:
    """Return one line of an error file as a person reads it: `custom_id: message (code)`."""
    try:
        line = json.loads(raw)
        response = line.get("response") or {}
        error = line.get("error") or (response.get("body") or {}).get("error") or {}
        text = f"{line['custom_id']}: {error.get('message')} ({error.get('code') or response.get('status_code')})"
    except (ValueError, KeyError, TypeError, AttributeError):
        text = raw.decode("utf-8", "replace").strip()
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}…"


def spoken(seconds: float) -> str:
    """Return a duration in the two largest units that it has: "1 h 3 min", "42 s"."""
    units = _units(seconds)
    first = next((place for place, (amount, _) in enumerate(units) if amount), len(units) - 1)
    (largest, unit), *next_smaller = units[first : first + 2]
    return " ".join([f"{largest} {unit}", *(f"{amount} {unit}" for amount, unit in next_smaller if amount)])


def _brief(seconds: float) -> str:
    """Return a duration in its largest unit: "3h", "42s"."""
    amount, unit = next(((amount, unit) for amount, unit in _units(seconds) if amount), (0, "s"))
    return f"{amount}{unit[0]}"


def _units(seconds: float) -> list[tuple[int, str]]:
    whole = max(0, round(seconds))
    return [(whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
