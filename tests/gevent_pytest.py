"""pytest under gevent's monkey-patching, as the gateway runs: `python -m tests.gevent_pytest tests/webapp`."""

from __future__ import annotations

from gevent import monkey

# Before anything imports ssl or threading, or half of them would stay as they were.
monkey.patch_all()

import sys  # noqa: E402

import pytest  # noqa: E402

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:]))
