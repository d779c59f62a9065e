from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.bulk.ledger import Ledger


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger, once in each database."""
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()
