"""`python -m tests.faults.promises`: write the README's table of promises from what the last run measured."""

from __future__ import annotations

from pathlib import Path

from tests.faults.matrix import ROWS
from tests.faults.row import Result
from tests.faults.table import KEPT, read_json
from tests.stack import REPOSITORY

PAGE = REPOSITORY / "README.md"
BEGIN, END = "<!-- promises -->", "<!-- /promises -->"
# What somebody asks who wonders whether to rely on us; the rest stands in docs/faults.md.
_SHOWN = frozenset(
    f"F{number}" for number in (1, 2, 4, 5, 8, 9, 10, 11, 12, 14, 16, 17, 18, 26, 28, 30, 31, 32, 33, 37)
)
_HEAD = ("what happens", "what the client sees", "what can be lost", "measured")


def measured(result: Result) -> str:
    """Say in a few words what was seen."""
    if not result.requests:
        return "see docs/faults.md"
    stayed = result.requests - result.cancelled
    words = [f"{result.clean} of {stayed} right"] if stayed else [f"{result.cancelled} left"]
    if result.retried or result.migrated:
        words.append(f"{result.retried + result.migrated} of them by another worker")
    if result.longest_gap_s >= 0.1 and result.migrated:
        words.append(f"longest pause {result.longest_gap_s:.1f} s")
    if result.failed:
        words.append(f"{result.failed} told so")
    if result.cut:
        words.append(f"{result.cut} cut off")
    return ", ".join(words)


def table(results: list[Result]) -> str:
    """Return the table; a row that does not hold now says so instead of promising."""
    promises: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.row in _SHOWN:
            promises.setdefault((result.row, result.fault), []).append(result)
    rows = [_HEAD, tuple("---" for _ in _HEAD)]
    for (row, fault), same in promises.items():
        rows.append((f"{fault} ({row})", same[0].client_sees, same[0].lost, "; ".join(map(_seen, same))))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _seen(result: Result) -> str:
    engine = "vLLM: " if result.engine == "vllm" else ""
    return engine + (measured(result) if result.passed else f"**does not hold yet**: {measured(result)}")


def put(text: str, results: list[Result]) -> str:
    """Return `text` with the table between its two marks. Raises ValueError when it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def main(page: Path = PAGE, kept: Path = KEPT) -> None:
    # As the matrix has them, whichever of them were run again last.
    order = [(row.id, row.fault) for row in ROWS]
    results = sorted(read_json(kept), key=lambda result: order.index((result.row, result.fault)))
    page.write_text(put(page.read_text(), results))


if __name__ == "__main__":
    main()
