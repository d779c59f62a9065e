"""`python -m tests.bench.peers`, which is `python -m tests.bench peers`."""

from __future__ import annotations

import sys

from tests.bench.peers.command import main

if __name__ == "__main__":
    sys.exit(main())
