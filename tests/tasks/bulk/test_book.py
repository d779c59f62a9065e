"""Which batches have their turn."""

from __future__ import annotations

from tasks.bulk.book import Book, Ending
from tasks.bulk.records import BatchRecord, BatchStatus, Counts
from tests.tasks.bulk.ledger_rows import A_DAY_S, batch, batch_id

NOW = 2000.0


def home(_: BatchRecord, name: str) -> str | None:
    return {"light": "demo", "demo": "demo", "other": "other"}.get(name)


def book(*pending: dict[str, int]) -> Book:
    book = Book()
    book.renew(batch(i) for i in range(len(pending)))
    for i, counts in enumerate(pending):
        book[batch_id(i)].pending = counts
    return book


def test_names_of_one_model_share_its_room() -> None:
    waiting = book({"light": 3, "other": 2}, {"demo": 1}, {"what": 1}).waiting(home, NOW)
    found = {model: [(it.id, name) for it, name in batches] for model, batches in waiting.items()}
    assert found == {
        "demo": [(batch_id(0), "light"), (batch_id(1), "demo")],
        "other": [(batch_id(0), "other")],
        None: [(batch_id(2), "what")],
    }


def test_whoever_got_something_comes_last_the_next_time() -> None:
    of = book({"demo": 5}, {"demo": 5}, {"demo": 5})
    served = []
    for _ in range(6):
        (portion,) = of.portions(of.waiting(home, NOW)["demo"], 1)
        of.took(portion, portion.count)
        served.append(portion.batch.id)
    assert served == [batch_id(i) for i in (0, 1, 2, 0, 1, 2)]


def test_batches_that_end_get_nothing() -> None:
    of = book({"demo": 1}, {"demo": 1}, {"demo": 1})
    of.renew([batch(0, expires_at=int(NOW)), batch(1, status=BatchStatus.CANCELLING), batch(2)])
    assert [it.id for it, _ in of.waiting(home, NOW)["demo"]] == [batch_id(2)]
    assert [of[batch_id(i)].ending(NOW) for i in range(3)] == [Ending.EXPIRED, Ending.CANCELLED, None]
    assert of[batch_id(2)].ending(1000 + A_DAY_S) is Ending.EXPIRED


def test_who_took_less_than_there_was_asks_again() -> None:
    of = book({"demo": 5})
    of[batch_id(0)].stale = False
    (portion,) = of.portions(of.waiting(home, NOW)["demo"], 3)
    of.took(portion, 3)
    assert (of[batch_id(0)].pending, of[batch_id(0)].stale) == ({"demo": 2}, False)
    (portion,) = of.portions(of.waiting(home, NOW)["demo"], 2)
    of.took(portion, 1)
    assert of[batch_id(0)].stale


def test_a_new_status_or_a_doubt_makes_it_ask_again() -> None:
    of = Book()
    of.renew([batch(0, status=BatchStatus.VALIDATING)])
    of[batch_id(0)].stale = False
    of.renew([batch(0)])
    assert of[batch_id(0)].stale
    of[batch_id(0)].stale = False
    of.doubt()
    assert of[batch_id(0)].stale


def test_a_batch_is_finished_when_every_line_has_its_result() -> None:
    of = Book()
    of.renew([batch(0, counts=Counts(total=3, completed=1, failed=1)), batch(1, counts=Counts(total=2, completed=2))])
    assert [it.finished for it in of] == [False, True]
    of.renew([])
    assert of.get(batch_id(0)) is None
    assert not len(of)
