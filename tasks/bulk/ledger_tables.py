"""The ledger's tables. Pure.

What is asked for many times a second must not depend on how much there is. So the lines
that wait and those that run have partial indices, which shrink as a batch goes on, and
how many lines wait stands in `backlog`, as the other counts stand with their batch; each
is moved in the transaction that moves the line.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text, text

# Raised whenever an older release could not read what a newer one has written.
VERSION = 1

metadata = MetaData()

_KEY = BigInteger().with_variant(Integer, "sqlite")

versions = Table("bulk_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

files = Table(
    "bulk_files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("bulk_files_of_owner", "owner", "created_at", "id"),
    Index("bulk_files_by_end", "expires_at"),
)

batches = Table(
    "bulk_batches",
    metadata,
    # Stands for the batch in the other tables, where its id of 30 letters would be most of a row.
    Column("key", _KEY, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("endpoint", Text),
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("window", Text, nullable=False),
    Column("max_lines", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    # Whichever of these it ended with: what is NULL is open.
    Column("ended_at", BigInteger),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("output_expires_after_s", BigInteger),
    Column("metadata", Text, nullable=False),
    Column("flaws", Text, nullable=False),
    Column("total", BigInteger, nullable=False, default=0),
    Column("completed", BigInteger, nullable=False, default=0),
    Column("failed", BigInteger, nullable=False, default=0),
    Column("prompt_tokens", BigInteger, nullable=False, default=0),
    Column("completion_tokens", BigInteger, nullable=False, default=0),
    Index("bulk_batches_of_owner", "owner", "kind", "created_at", "id"),
    Index("bulk_batches_ended", "kind", "ended_at"),
)
OPEN = text("ended_at IS NULL")
Index(
    "bulk_batches_open",
    batches.c.created_at,
    batches.c.key,
    sqlite_where=OPEN,
    postgresql_where=OPEN,
)
Index("bulk_batches_reading", batches.c.input_file_id, sqlite_where=OPEN, postgresql_where=OPEN)

lines = Table(
    "bulk_lines",
    metadata,
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("model", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("custom_id", Text, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("body", LargeBinary),
    sqlite_with_rowid=False,
)
# Spelt out in the queries too: a bound value would not be known to match the index.
PENDING = text("bulk_lines.state = 'pending'")
RUNNING = text("bulk_lines.state = 'running'")
_PENDING, _RUNNING = text("state = 'pending'"), text("state = 'running'")
Index(
    "bulk_lines_pending",
    lines.c.batch,
    lines.c.model,
    lines.c.prefix,
    lines.c.number,
    sqlite_where=_PENDING,
    postgresql_where=_PENDING,
)
Index("bulk_lines_running", lines.c.batch, lines.c.number, sqlite_where=_RUNNING, postgresql_where=_RUNNING)

backlog = Table(
    "bulk_backlog",
    metadata,
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("model", Text, primary_key=True),
    Column("pending", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

results = Table(
    "bulk_results",
    metadata,
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("request_id", Text, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("code", Text),
    Column("message", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    # Last, since what stands behind a large body is slow to reach in SQLite.
    Column("body", LargeBinary, nullable=False),
)
_FAILED = text("code IS NOT NULL")
Index("bulk_results_failed", results.c.batch, results.c.number, sqlite_where=_FAILED, postgresql_where=_FAILED)
