"""JSON logs: one line an event, for every process of ours.

A call names a fact in the past tense and puts its data beside it:
`log.info("replica ready", extra={"event": "replica_ready", "load_s": 3.1})`.
Prompts, answers and keys are never logged. Since a foreign exception may quote one, a
traceback is written without the exception's text; a caller who knows the text to be
safe passes it as a field.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, then the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = type(error).__name__
            line["stack"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(level: str, stream: IO[str] | None = None) -> None:
    """Send everything this process logs to `stream` (stderr when None), and nothing anywhere else."""
    # What no line of ours has, and what logging would find out for each: the caller's place, threads, processes.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def adopt(name: str) -> None:
    """Make the handlers that a library gave its logger `name` write our format."""
    for handler in logging.getLogger(name).handlers:
        handler.setFormatter(JsonFormatter())
