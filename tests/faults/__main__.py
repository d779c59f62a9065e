"""`make faults`: run the rows of the fault matrix, print the table and write it down.

Every row starts a system of its own, puts a steady load on it, does one real thing to
it (a kill, a stop, a cut, a flood) and checks the invariants afterwards.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import table
from tests.faults.matrix import ROWS
from tests.faults.row import Result, Row
from tests.faults.runner import Runner


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rows", default="", help="only these, such as F1,F5")
    parser.add_argument("--engine", choices=("sim", "vllm"), help="only the rows that run on this engine")
    parser.add_argument("--long", action="store_true", help="F37 for 5 minutes, F38 for 24 hours")
    parser.add_argument("--out", type=Path, help="keep logs and results in this folder")
    parser.add_argument("--write", action="store_true", help="write the results into docs/ (a whole run does so)")
    options = parser.parse_args()
    rows = chosen(options.rows, options.engine)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        out: Path = options.out or Path(folder)
        results = run(rows, out, long=options.long)
        table.write_json(results, out / "faults.json")
    sys.stdout.write("\n" + table.markdown(results) + "\n")
    if options.write or len(rows) == len(ROWS):
        table.keep(results, ROWS)
    return 0 if all(result.passed for result in results) else 1


def chosen(ids: str, engine: str | None) -> list[Row]:
    """Return the rows that were asked for. Ends the program when one does not exist."""
    wanted = {name.strip() for name in ids.split(",") if name.strip()}
    if unknown := wanted - {row.id for row in ROWS}:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(dict.fromkeys(r.id for r in ROWS))}")
    return [row for row in ROWS if (not wanted or row.id in wanted) and engine in (None, row.engine)]


def run(rows: list[Row], out: Path, *, long: bool) -> list[Result]:
    runner = Runner(out, long=long)
    results = []
    began = time.monotonic()
    try:
        for row in rows:
            sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {row.id:4} {row.engine:4}  {row.fault}\n")
            sys.stdout.flush()
            results.append(result := runner.run(row))
            sys.stdout.write(table.told(result))
            sys.stdout.flush()
    finally:
        runner.drop()
    return results


if __name__ == "__main__":
    sys.exit(main())
