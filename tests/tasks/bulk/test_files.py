from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tasks.bulk.files import FileStore, is_file_id, new_file_id


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "state" / "files")


def kept(store: FileStore, content: bytes) -> str:
    upload = store.new_upload()
    upload.write_bytes(content)
    file_id = new_file_id()
    assert store.keep(upload, file_id) == len(content)
    assert not upload.exists()
    return file_id


def test_a_file_is_kept_under_its_id(store: FileStore) -> None:
    file_id = kept(store, b"some content")
    assert is_file_id(file_id)
    with store.open(file_id) as file:
        assert file.read() == b"some content"


def test_files_and_folders_are_ours_alone(store: FileStore, tmp_path: Path) -> None:
    upload = store.new_upload()
    file_id = kept(store, b"x")
    folder = tmp_path / "state" / "files"
    assert {path.stat().st_mode & 0o777 for path in (upload, folder / file_id)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder.parent, folder, upload.parent)} == {0o700}


@pytest.mark.parametrize(
    "name", ["", "../secret", "file-1", "uploads", "file-" + "0" * 23 + "/", "file-" + "0" * 24 + "\n"]
)
def test_an_id_that_is_not_ours_leads_nowhere(store: FileStore, name: str) -> None:
    kept(store, b"x")
    with pytest.raises(FileNotFoundError):
        store.open(name)
    with pytest.raises(FileNotFoundError):
        store.keep(store.new_upload(), name)
    store.remove(name)


def test_a_removed_file_is_gone_but_for_who_reads_it(store: FileStore) -> None:
    file_id = kept(store, b"x")
    with store.open(file_id) as file:
        store.remove(file_id)
        store.remove(file_id)
        assert file.read() == b"x"
    with pytest.raises(FileNotFoundError):
        store.open(file_id)


@pytest.mark.parametrize("links", [True, False])
def test_what_is_kept_under_an_id_stays(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    def refuse(path: Path, to: Path) -> None:
        raise PermissionError(errno.EPERM, "no links on this file system")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    file_id = kept(store, b"first")
    upload = store.new_upload()
    upload.write_bytes(b"the second")
    assert store.keep(upload, file_id) == len(b"first")
    with store.open(file_id) as file:
        assert file.read() == b"first"
    assert not upload.exists()


def test_abandoned_uploads_are_swept_and_nothing_else(store: FileStore) -> None:
    assert store.sweep_uploads(before=1e12) == 0
    file_id = kept(store, b"x")
    old, new = store.new_upload(), store.new_upload()
    os.utime(old, (1000, 1000))
    assert store.sweep_uploads(before=2000) == 1
    assert (old.exists(), new.exists()) == (False, True)
    store.open(file_id).close()


def test_what_is_given_up_is_swept_like_an_upload(store: FileStore) -> None:
    file_id = kept(store, b"x")
    store.give_up(file_id)
    store.give_up(file_id)
    with pytest.raises(FileNotFoundError):
        store.open(file_id)
    assert store.sweep_uploads(before=1e12) == 2
