"""The Batch API as `celerity batch` uses it, and files that come to the disk whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from deploy.batch_facts import BatchFacts, facts_of
from deploy.errors import CommandError
from deploy.gateway_http import Address, blocks

_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class BatchClient:
    """Every method raises CommandError; UnreachableError when the same may succeed later."""

    address: Address

    def upload(self, name: str, size: int, content: Iterable[bytes]) -> str:
        """Send `size` bytes as a file, as they come, and return its id."""
        boundary = secrets.token_hex(16)
        before, after = _form(boundary, name)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(before) + size + len(after)),
        }

        def pieces() -> Iterator[bytes]:
            yield before
            yield from content
            yield after

        with self.address.request("POST", "/files", pieces(), headers) as response:
            return str(json.loads(response.read())["id"])

    def delete_file(self, file_id: str) -> None:
        with self.address.request("DELETE", f"/files/{quote(file_id, safe='')}"):
            pass

    def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> BatchFacts:
        body: dict[str, Any] = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        if metadata:
            body["metadata"] = dict(metadata)
        with self.address.request("POST", "/batches", json.dumps(body).encode(), _JSON) as response:
            return facts_of(json.loads(response.read()))

    def batch(self, batch_id: str) -> BatchFacts:
        with self._of_batch("GET", batch_id) as response:
            return facts_of(json.loads(response.read()))

    def latest(self, limit: int) -> list[BatchFacts]:
        """Return the caller's batches, the newest first."""
        with self.address.request("GET", f"/batches?{urlencode({'limit': limit})}") as response:
            return [facts_of(document) for document in json.loads(response.read())["data"]]

    def cancel(self, batch_id: str) -> BatchFacts:
        """Begin to cancel; it has ended some moments later."""
        with self._of_batch("POST", batch_id, "/cancel") as response:
            return facts_of(json.loads(response.read()))

    def first_lines(self, file_id: str, count: int) -> list[bytes]:
        """Return the first lines of a file, without fetching the rest."""
        with self._content(file_id) as response:
            return [line for line in (response.readline() for _ in range(count)) if line]

    def save(self, file_id: str, target: Path, *, force: bool, tell: Callable[[int, int | None], None]) -> None:
        """Write a file of the gateway's to `target`, which has all of it or stays as it was.

        `tell` hears how many bytes have come, of how many. Raises CommandError also when there
        is a `target` already and not `force`.
        """
        with self._content(file_id) as response, _draft(target, force=force) as write:
            come, of = 0, response.length
            for block in blocks(response):
                write(block)
                come += len(block)
                tell(come, of)

    def _of_batch(
        self, method: str, batch_id: str, action: str = ""
    ) -> contextlib.AbstractContextManager[HTTPResponse]:
        return self.address.request(method, f"/batches/{quote(batch_id, safe='')}{action}")

    def _content(self, file_id: str) -> contextlib.AbstractContextManager[HTTPResponse]:
        return self.address.request("GET", f"/files/{quote(file_id, safe='')}/content")


def _form(boundary: str, name: str) -> tuple[bytes, bytes]:
    """Return what stands before and behind a file's content in a form."""
    # As browsers write a name; what else is in it passes as UTF-8.
    quoted = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    return head.encode("utf-8", "replace"), f"\r\n--{boundary}--\r\n".encode()


def refuse_to_overwrite(*targets: Path) -> None:
    """Raises CommandError when one of them is there already."""
    for target in targets:
        if target.exists():
            raise CommandError(f"{target} is there already; choose another name, or overwrite it with --force")


@contextlib.contextmanager
def _draft(target: Path, *, force: bool) -> Iterator[Callable[[bytes], None]]:
    """Give the function that writes; the file gets its name once the block has ended well, and else never was."""
    if not force:
        refuse_to_overwrite(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with _disk(target):
        file = draft.open("xb")
    try:
        with file:

            def write(block: bytes) -> None:
                with _disk(target):
                    file.write(block)

            yield write
            with _disk(target):
                file.flush()
                os.fsync(file.fileno())
        with _disk(target):
            _name(draft, target, force=force)
    finally:
        draft.unlink(missing_ok=True)


def _name(draft: Path, target: Path, *, force: bool) -> None:
    if force:
        draft.replace(target)
        return
    try:
        # Unlike a rename, it leaves alone what somebody has put there meanwhile.
        os.link(draft, target)
    except FileExistsError:
        refuse_to_overwrite(target)
    except OSError:  # a file system without links
        refuse_to_overwrite(target)
        draft.replace(target)


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    """Tell a fault of the disk from one of the connection, which is an OSError too."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror or error}") from None
