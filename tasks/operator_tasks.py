"""The operators' tasks, for `celery -A tasks.app call tasks.loader.load --args '["MODEL"]'` and `celery … result ID`.

They answer at once, as the other ways in do; `tasks.loader.status` says what became of an order.
"""

from __future__ import annotations

import functools
import time
from typing import Any

from tasks.app import app, settings
from tasks.errors import ServingError
from tasks.loader.operations import Operations, Ordered
from workers.registry import Registry
from workers.registry_watch import RegistryWatch

_BY = "celery"


@functools.cache
def _operations() -> Operations:
    return Operations.over(settings.redis_url)


@functools.cache
def _watch() -> RegistryWatch:
    return RegistryWatch(settings.models, settings.models_dir)


def _registry() -> Registry:
    watch = _watch()
    watch.poll(time.monotonic())
    return watch.current()


# Refused is not broken: no traceback in the log for what `throws` names.
@app.task(name="tasks.loader.load", ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def load(model: str) -> dict[str, Any]:
    return _answer(_operations().load(_registry(), model, by=_BY))


@app.task(name="tasks.loader.unload", ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def unload(model: str) -> dict[str, Any]:
    return _answer(_operations().unload(_registry(), model, by=_BY))


@app.task(name="tasks.loader.status", ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def status() -> dict[str, Any]:
    return _operations().status(_registry())


@app.task(name="tasks.loader.switch", ignore_result=False, throws=(ServingError,))  # type: ignore[untyped-decorator]
def switch(automatic: bool) -> dict[str, Any]:
    _operations().switch(automatic=bool(automatic), by=_BY)
    return {"automatic": bool(automatic)}


def _answer(ordered: Ordered) -> dict[str, Any]:
    return _operations().look(_registry(), ordered.model).entry | {"note": ordered.note}
