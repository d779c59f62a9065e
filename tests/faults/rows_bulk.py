"""F37: a batch, through kills of the workers that run it and of the one that feeds them."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator

from tasks.bulk.ledger_desk import BATCH_PURPOSE, LedgerDesk
from tasks.bulk.records import BatchRecord, BatchStatus
from tasks.messages import Endpoint
from tests.faults.client import Ask
from tests.faults.expected import sim_ask
from tests.faults.outcome import Kind, Outcome
from tests.faults.row import Run

# Long enough for several kills to find each answer in the middle.
_TOKENS = 1200
_WITHIN_S = 400.0


def through_kills(run: Run) -> None:
    """A worker is killed every 20 s, and the bulk worker once."""
    rows = {f"row-{number}": sim_ask(run.model, tokens=_TOKENS) for number in range(2500 if run.long else 500)}
    service = run.system.start_bulk()
    with _desk(run) as desk:
        batch_id = _submit(desk, rows)
        began, kills, fed_again = time.monotonic(), 0, False
        while desk.batch(batch_id, "").completed_at is None and time.monotonic() < began + _WITHIN_S:
            if time.monotonic() > began + 5 + 20 * kills:
                run.fault()
                slots = run.system.workers(run.model)
                slots[kills % len(slots)].process.kill()
                kills += 1
            if not fed_again and time.monotonic() > began + 15:
                service.kill()
                service = run.system.start_bulk()
                fed_again = True
            time.sleep(0.1)
        batch = desk.batch(batch_id, "")
        run.check("the batch completes", batch.status is BatchStatus.COMPLETED, batch.status)
        results = _results(desk, batch)
    run.system.wait_ready()
    run.check("kills", kills >= 3, kills)
    found = Counter(name for name, _ in results)
    once = sum(1 for name in rows if found[name] == 1)
    run.ledger_told = f"{once} of {len(rows)} rows have exactly one result, {found.total() - once} results are beside"
    run.ledger_held = once == len(rows) == found.total()
    for name, outcome in results:
        run.outcomes.add(_judged(rows[name], outcome))
    tries = max((run.watcher.of(o.request_id).tries for o in run.outcomes), default=0)
    run.check("each row in at most 3 attempts", tries <= 3, tries)
    run.all_clean()


@contextlib.contextmanager
def _desk(run: Run) -> Iterator[LedgerDesk]:
    with contextlib.closing(LedgerDesk.over(run.system.settings())) as desk:
        yield desk


def _submit(desk: LedgerDesk, rows: dict[str, Ask]) -> str:
    upload = desk.new_upload()
    with upload.open("w") as file:
        for name, ask in rows.items():
            messages = [{"role": "user", "content": ask.prompt}]
            body = {"model": ask.model, "max_tokens": ask.tokens, "messages": messages}
            line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    kept = desk.keep(upload, owner="", name="rows.jsonl", purpose=BATCH_PURPOSE)
    return desk.create(owner="", input_file_id=kept.id, endpoint=Endpoint.CHAT).id


def _results(desk: LedgerDesk, batch: BatchRecord) -> list[tuple[str, dict[str, object]]]:
    found = []
    for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
        with desk.open(file_id, "") as file:
            found += [(line["custom_id"], line) for line in map(json.loads, file)]
    return found


def _judged(ask: Ask, line: dict[str, object]) -> Outcome:
    response = line["response"]
    outcome = Outcome(model=ask.model, stream=False, began=0.0)
    if not isinstance(response, dict) or response["status_code"] != 200:
        outcome.kind, outcome.why = Kind.FAILED, str(line["error"] or response)[:200]
        return outcome
    outcome.request_id, outcome.status = response["request_id"], 200
    text = response["body"]["choices"][0]["message"]["content"]
    if text == ask.expected:
        outcome.kind = Kind.CLEAN
    else:
        outcome.why = f"wrong text: {text[:60]!r}"
    return outcome
