"""API keys: a file of hashes, checked from memory.

One line a key: `NAME SHA256 CREATED [ROLE] [PRIORITIES]`, the hash in hex, the time in
UTC; `#` begins a comment. A line without a role is a user's, one without priorities may
use any. A key itself is shown once, when it is made, and kept nowhere. It has 256 random
bits, so a plain hash cannot be turned round.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from tasks.queues import Priority

log = logging.getLogger(__name__)

PREFIX = "sk-celerity-"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LOOK_EVERY_S = 1.0
_HEADING = "# Celerity API keys: name, SHA-256 of the key, created. Add one with 'celerity keys add NAME'.\n"


class KeyFileError(Exception):
    """The file of keys cannot be used, or the key not be added. The text names the line."""


class Role(StrEnum):
    """What a key is good for. The names are in the file."""

    USER = "user"  # inference
    OPERATOR = "operator"  # that, and /admin


class Priorities(StrEnum):
    """Which priorities a key may ask for. The names are in the file."""

    ANY = "any"
    INTERACTIVE = "interactive"
    BULK = "bulk"

    def allow(self, priority: Priority) -> bool:
        return self is Priorities.ANY or self.name == priority.name

    @property
    def usual(self) -> Priority:
        """What a request has that does not say."""
        return Priority.BULK if self is Priorities.BULK else Priority.INTERACTIVE


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of the file."""

    name: str
    digest: bytes
    created: str
    role: Role = Role.USER
    priorities: Priorities = Priorities.ANY


def add(path: Path, name: str, role: Role = Role.USER, priorities: Priorities = Priorities.ANY) -> str:
    """Make a key called `name`, write its hash into `path` and return it.

    Raises KeyFileError when the name is taken or malformed, or the file is not ours.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} cannot name a key: use 1 to 64 letters, digits, dots, dashes or underscores")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        if any(entry.name == name for entry in read(path)):
            raise KeyFileError(f"{path} has a key called {name} already")
        text = path.read_text("utf-8") if path.exists() else _HEADING
        if text and not text.endswith("\n"):
            text += "\n"
        key = PREFIX + secrets.token_urlsafe(32)
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _replace(path, f"{text}{name} {_digest(key).hex()} {created}{_rights(role, priorities)}\n")
    return key


def remove(path: Path, name: str) -> None:
    """Make the key called `name` invalid: within a second in every gateway. Raises KeyFileError if there is none."""
    if not path.exists():
        raise KeyFileError(f"{path} does not exist")
    with _locked(path):
        if all(entry.name != name for entry in read(path)):
            raise KeyFileError(f"{path} has no key called {name}")
        lines = path.read_text("utf-8").splitlines(keepends=True)
        _replace(path, "".join(line for line in lines if line.split()[:1] != [name]))


def read(path: Path) -> list[KeyEntry]:
    """Return the entries of `path`. Raises KeyFileError."""
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {type(error).__name__}") from error
    entries: dict[str, KeyEntry] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            entry = _entry(words)
        except ValueError as error:
            raise KeyFileError(f"{path}, line {number}: {error}") from None
        if entry.name in entries:
            raise KeyFileError(f"{path}, line {number}: the name {entry.name} is taken already")
        entries[entry.name] = entry
    return list(entries.values())


_ROLES = tuple(role.value for role in Role)
_PRIORITIES = tuple(priorities.value for priorities in Priorities)


def _entry(words: list[str]) -> KeyEntry:
    """Raises ValueError with what is wrong."""
    if not 3 <= len(words) <= 5 or not _NAME.fullmatch(words[0]) or not _HASH.fullmatch(words[1]):
        raise ValueError("'NAME SHA256 CREATED [ROLE] [PRIORITIES]' is expected")
    rights = words[3:]
    role = Role.USER.value if not rights or rights[0] in _PRIORITIES else rights.pop(0)
    if role not in _ROLES:
        raise ValueError(f"the role is {role!r}; it can be {' or '.join(_ROLES)}")
    priorities = rights.pop(0) if rights else Priorities.ANY.value
    if priorities not in _PRIORITIES:
        raise ValueError(f"the priorities are {priorities!r}; they can be {', '.join(_PRIORITIES)}")
    if rights:
        raise ValueError(f"nothing is expected behind {priorities!r}")
    return KeyEntry(words[0], bytes.fromhex(words[1]), words[2], Role(role), Priorities(priorities))


def _rights(role: Role, priorities: Priorities) -> str:
    """Return the end of a line. It says no more than it has to, so that an older gateway can read it too."""
    if priorities is not Priorities.ANY:
        return f" {role} {priorities}"
    return "" if role is Role.USER else f" {role}"


class KeyRing:
    """The keys of one file, in memory.

    The file is looked at once a second at most. A change that cannot be used, the
    removal of the file included, is logged and leaves the keys as they were.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises KeyFileError when the file is missing or cannot be used."""
        if not path.exists():
            raise KeyFileError(f"{path} does not exist; make it with 'celerity keys add NAME'")
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._version = self._look()
        self._entries = read(path)

    def entry_of(self, key: str) -> KeyEntry | None:
        """Return the line of `key`, or None if it is not ours. Takes the same time for every key of a length."""
        self._refresh()
        digest = _digest(key)
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def name_of(self, key: str) -> str | None:
        """As `entry_of`, for those who need no more than the name."""
        entry = self.entry_of(key)
        return None if entry is None else entry.name

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        version = self._look()
        if version == self._version:
            return
        self._version = version
        if version is None:
            log.error("key file gone", extra={"event": "api_keys_kept", "reason": "the file is gone"})
            return
        try:
            self._entries = read(self._path)
        except KeyFileError as error:
            log.error("key file not usable", extra={"event": "api_keys_kept", "reason": str(error)})
        else:
            log.info("keys reloaded", extra={"event": "api_keys_reloaded", "keys": len(self._entries)})

    def _look(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the folder of `path` over read and replace, so that two changes at once both last."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        # Not left to the close: under gevent that may happen later than the next lock is asked for.
        fcntl.flock(folder, fcntl.LOCK_UN)
        os.close(folder)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _replace(path: Path, text: str) -> None:
    """Write `path` as a whole, readable by its owner only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)  # mkstemp has made it 0600
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
