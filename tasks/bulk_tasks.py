"""The tasks that users call by name: `celery -A tasks.app call tasks.chat --kwargs '{…}'`, then `celery … result ID`.

A good call becomes a line of the ledger, and the task has no result until that line has
one (`tasks.bulk.closing`); a bad one fails at once. What is delivered twice is accepted once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import time
from pathlib import Path
from typing import IO, Any

import orjson
from celery.exceptions import Ignore

from tasks.app import app, settings
from tasks.bulk.admission import check
from tasks.bulk.calling import BATCH, CHAT, COMPLETE, EMBED, ENDPOINTS, as_task_error
from tasks.bulk.files import FileStore
from tasks.bulk.filling import filled
from tasks.bulk.input import URLS
from tasks.bulk.ledger import Ledger, LedgerError
from tasks.bulk.ledger_desk import BATCH_PURPOSE, WINDOWS_S, LedgerDesk
from tasks.bulk.records import BatchRecord, BatchStatus, Kind
from tasks.bulk.wake import wake
from tasks.connections import command_client
from tasks.errors import (
    InvalidJsonError,
    InvalidRequestError,
    RequestTooLargeError,
    ServiceUnavailableError,
    ServingError,
    UnknownParameterError,
)
from tasks.messages import Endpoint
from tasks.openai.metadata import check as check_metadata
from tasks.requests.routing import route
from workers.placement.actions import Explanation
from workers.registry import Registry
from workers.registry_watch import RegistryWatch

_WINDOW = "24h"


class _Blind:
    """To see whether a name leads anywhere, nobody has to know which models are loaded."""

    def ready(self, model: str) -> bool:
        return False

    def outlook(self, model: str) -> Explanation | None:
        return None


class _Counter:
    """Where calls are handed in; made in the worker, at the first one."""

    def __init__(self) -> None:
        self.ledger = Ledger(settings.ledger_url)
        self.client = command_client(settings.redis_url)
        self.desk = LedgerDesk(self.ledger, FileStore(settings.files), self.client)
        self._watch = RegistryWatch(settings.models, settings.models_dir)

    def registry(self, name: str) -> Registry:
        """Return the models there are; as they are now, if that name was unknown at the latest look."""
        now = time.monotonic()
        self._watch.poll(now)
        if self._watch.current().targets(name) is None:
            self._watch.refresh(now)
        return self._watch.current()


@functools.cache
def _counter() -> _Counter:
    return _Counter()


# Refused is not broken: no traceback in the log for what `throws` names.
@app.task(name=CHAT, bind=True, ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def chat(task: Any, /, *args: Any, **body: Any) -> None:
    """Answer a chat. The keyword arguments are OpenAI's body."""
    _accept(task, args, body)


@app.task(name=COMPLETE, bind=True, ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def complete(task: Any, /, *args: Any, **body: Any) -> None:
    """Complete a prompt. The keyword arguments are OpenAI's body."""
    _accept(task, args, body)


@app.task(name=EMBED, bind=True, ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def embed(task: Any, /, *args: Any, **body: Any) -> None:
    """Embed texts. The keyword arguments are OpenAI's body."""
    _accept(task, args, body)


@app.task(name=BATCH, bind=True, ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def batch(task: Any, /, *args: Any, **said: Any) -> str:
    """Make a batch of the file `input`. `model` and `endpoint` are for lines that do not name one. Returns its id."""
    try:
        _named(args)
        return _expand(task.request.id, **_terms(said))
    except ServingError as error:
        raise as_task_error(error) from None


def _accept(task: Any, args: tuple[Any, ...], body: dict[str, Any]) -> None:
    """Hand in one call. Raises Ignore, which leaves the result to whoever answers it."""
    endpoint = ENDPOINTS[task.name]
    try:
        _named(args)
        check(endpoint, body)
        route(_counter().registry(body["model"]), body["model"], endpoint, _Blind())
        _counter().desk.call(task_id=task.request.id, endpoint=endpoint, model=body["model"], body=_dumped(body))
    except ServingError as error:
        raise as_task_error(error) from None
    raise Ignore


def _named(args: tuple[Any, ...]) -> None:
    if args:
        raise InvalidRequestError("Arguments are given by name: --kwargs '{\"model\": …}'.")


def _dumped(body: dict[str, Any]) -> bytes:
    try:
        dumped = orjson.dumps(body)
    except TypeError:
        raise InvalidJsonError("A number is too large, or a text is not Unicode.") from None
    if len(dumped) > settings.max_body_bytes:
        raise RequestTooLargeError(f"The request is larger than {settings.max_body_bytes} bytes.")
    return dumped


def _terms(said: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `_expand`. Raises InvalidRequestError."""
    for name in said.keys() - {"input", "endpoint", "model", "metadata"}:
        raise UnknownParameterError(f"Unknown parameter: '{name[:64]}'.", param=name[:64])
    path, endpoint, model = said.get("input"), said.get("endpoint"), said.get("model")
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise InvalidRequestError("'input' must be the path of a file, absolute where it is called.", param="input")
    if endpoint is not None and endpoint not in URLS:
        raise InvalidRequestError(f"'endpoint' must be one of {', '.join(URLS)}.", param="endpoint")
    if model is not None:
        if not isinstance(model, str):
            raise InvalidRequestError("'model' must be a string.", param="model")
        asked = URLS[endpoint] if endpoint else next(iter(Endpoint))
        registry = _counter().registry(model)
        if endpoint or registry.targets(model) is None:
            route(registry, model, asked, _Blind())
    if said.get("metadata") is not None:
        check_metadata(said["metadata"], "metadata")
    return {
        "path": Path(path),
        "endpoint": URLS[endpoint] if endpoint else None,
        "model": model,
        "metadata": said.get("metadata") or {},
    }


def _expand(task_id: str, *, path: Path, endpoint: Endpoint | None, model: str | None, metadata: dict[str, str]) -> str:
    """Make the batch of a task, unless it was made when the task was delivered before."""
    counter = _counter()
    batch_id = f"batch_{hashlib.sha256(task_id.encode()).hexdigest()[:24]}"
    try:
        if counter.ledger.batch(batch_id) is not None:
            return batch_id
        upload = counter.desk.new_upload()
        try:
            _copy(path, upload, endpoint, model)
            file = counter.desk.keep(upload, owner="", name=path.name, purpose=BATCH_PURPOSE)
        finally:
            upload.unlink(missing_ok=True)  # what was kept is there no more
        now = int(time.time())
        made = counter.ledger.add_batch(
            BatchRecord(
                id=batch_id,
                kind=Kind.FILE,
                owner="",
                endpoint=endpoint,
                input_file_id=file.id,
                status=BatchStatus.VALIDATING,
                created_at=now,
                expires_at=now + WINDOWS_S[_WINDOW],
                window=_WINDOW,
                metadata=metadata,
            ),
            reads_file=True,
        )
        if not made:
            counter.desk.delete_file(file.id, "")
    except LedgerError:
        raise ServiceUnavailableError("Bulk work is out of reach now; try again in a moment.") from None
    wake(counter.client, batch_id)
    return batch_id


def _copy(path: Path, upload: Path, endpoint: Endpoint | None, model: str | None) -> None:
    """Copy the file, so that nobody changes it any more. Raises InvalidRequestError when it cannot be read."""
    with _opened(path) as source, upload.open("wb") as target:
        if endpoint is None and model is None:
            shutil.copyfileobj(source, target, 1 << 20)
        else:
            target.writelines(filled(source, endpoint=endpoint, model=model))


def _opened(path: Path) -> IO[bytes]:
    try:
        # What is no file, a pipe say, must not hold up the worker.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        file = os.fdopen(descriptor, "rb")
    except OSError as error:
        why = "there is no such file" if isinstance(error, FileNotFoundError) else "it cannot be read"
        raise InvalidRequestError(
            f"'input' must be a file that the bulk worker can read; {why}.", param="input"
        ) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise InvalidRequestError("'input' must be a file that the bulk worker can read.", param="input")
    return file
