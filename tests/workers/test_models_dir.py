"""Which folders of the models directory are models, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import models_dir
from workers.models_dir import root_of, scan, snapshot


def plain(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def cached(root: Path, repository: str, revision: str = "0a1b2c", *, main: str | None = "0a1b2c") -> Path:
    folder = root / ("models--" + repository.replace("/", "--"))
    if main is not None:
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text(main)
    return plain(folder / "snapshots" / revision)


def test_a_folder_is_called_as_it_is(tmp_path: Path) -> None:
    folders = {"small": plain(tmp_path / "small"), "org/name": plain(tmp_path / "org" / "name")}
    assert scan(tmp_path).folders == folders


def test_a_repository_of_the_hub_s_cache_is_called_as_it_is_there(tmp_path: Path) -> None:
    folders = {"Qwen/Qwen3-8B": cached(tmp_path, "Qwen/Qwen3-8B"), "gpt2": cached(tmp_path, "gpt2")}
    assert scan(tmp_path).folders == folders
    assert snapshot(tmp_path, "Qwen/Qwen3-8B") == folders["Qwen/Qwen3-8B"]
    assert snapshot(tmp_path, "Qwen/other") is None


def test_of_several_snapshots_the_main_one_counts(tmp_path: Path) -> None:
    cached(tmp_path, "o/n", "aaaa")
    main = cached(tmp_path, "o/n", "bbbb", main="bbbb\n")
    assert scan(tmp_path).folders == {"o/n": main}


def test_the_only_snapshot_counts_without_being_named(tmp_path: Path) -> None:
    assert scan(tmp_path).folders == {}
    only = cached(tmp_path, "o/n", main=None)
    assert scan(tmp_path).folders == {"o/n": only}
    cached(tmp_path, "o/n", "other", main=None)
    assert list(scan(tmp_path).skipped.values()) == ["none of its snapshots is the one that refs/main names"]


@pytest.mark.parametrize("main", ["../../../etc", "/etc", "0a1b2c/..", "", "cccc", "\0", "é" * 300])
def test_a_main_snapshot_that_is_none_is_not_followed(tmp_path: Path, main: str) -> None:
    cached(tmp_path, "o/n", "aaaa", main=main)
    cached(tmp_path, "o/n", "bbbb", main=main)
    found = scan(tmp_path)
    assert found.folders == {}
    assert list(found.skipped) == [tmp_path / "models--o--n"]


def test_what_is_no_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    plain(tmp_path / ".locks")
    (tmp_path / "data" / "tables").mkdir(parents=True)
    (tmp_path / "models--o--n" / "blobs").mkdir(parents=True)  # a download that has only begun
    plain(tmp_path / "deep" / "deeper" / "deepest")
    assert scan(tmp_path) == models_dir.Scan()


def test_weights_without_a_config_are_told(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    assert scan(tmp_path).skipped == {tmp_path / "adapter": "it holds adapter_model.safetensors but no config.json"}


def test_a_name_that_cannot_be_one_becomes_one_or_is_told(tmp_path: Path) -> None:
    spaced, dashed = plain(tmp_path / "my model"), plain(tmp_path / "my-model")
    odd, long = plain(tmp_path / "_x"), plain(tmp_path / ("x" * 200))
    found = scan(tmp_path)
    assert found.folders == {"my-model": spaced}
    assert found.skipped.keys() == {dashed, odd, long}
    assert "is called my-model already" in found.skipped[dashed]
    assert "cannot be that of a model" in found.skipped[odd]


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path / "later") == models_dir.Scan()


def test_a_flood_of_folders_is_cut_off_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_dir, "_MAX_FOLDERS", 3)
    for number in range(3):
        for inner in range(2):
            plain(tmp_path / f"o{number}" / f"m{inner}")
    found = scan(tmp_path)
    assert len(found.folders) == 3
    assert "holds more than 3 models" in found.skipped[tmp_path]


def test_nothing_may_lead_out_of_the_place_where_a_model_lives(tmp_path: Path) -> None:
    inside, outside = tmp_path / "models" / "m", tmp_path / "m"
    in_cache = tmp_path / "hub" / "models--o--n" / "snapshots" / "0a1b"
    assert root_of(inside, tmp_path / "models") == tmp_path / "models"
    assert root_of(outside, tmp_path / "models") == root_of(outside, None) == outside
    assert root_of(in_cache, None) == tmp_path / "hub" / "models--o--n"
