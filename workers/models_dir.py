"""Which folders of the models directory hold models, and what they are called.

Two layouts may stand side by side: plain folders (`NAME` or `OWNER/NAME`), and those of
the Hugging Face hub's cache (`models--OWNER--NAME/snapshots/REVISION`). A model is called
as its folder is, or as its repository is on the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from workers.json_file import JsonFileError, read_bytes
from workers.model_folder import CONFIG
from workers.model_schema import ID

_HUB = "models--"
_MAX_FOLDERS = 5_000
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies in a models directory. Nothing is said yet about whether it can be served."""

    folders: dict[str, Path] = field(default_factory=dict)
    """Model id → its folder."""
    skipped: dict[Path, str] = field(default_factory=dict)
    """Folders that look like a model and are none, with the reason."""


def scan(root: Path) -> Scan:
    """Look through `root`; one that is not there holds nothing, since it may be mounted later."""
    found = Scan()
    for seen, (name, folder, problem) in enumerate(_candidates(root)):
        if seen == _MAX_FOLDERS:
            found.skipped[root] = f"holds more than {_MAX_FOLDERS:,} models; those after {name} are left out"
            break
        id_ = re.sub(r"[^A-Za-z0-9._:/-]", "-", name)
        why = problem or _name_problem(id_, found)
        if why is not None:
            found.skipped[folder] = why
        else:
            found.folders[id_] = folder
    return found


def snapshot(root: Path, repository: str) -> Path | None:
    """Return the folder of `repository` (`OWNER/NAME`) where `root` is a hub's cache that has it."""
    folder = root / (_HUB + repository.replace("/", "--"))
    return _snapshot(folder) if folder.is_dir() else None


def root_of(folder: Path, models_dir: Path | None) -> Path:
    """Return the place that nothing in `folder` may lead out of.

    The models directory for what lies in it. For another folder of a hub's cache, the
    repository's, since a snapshot consists of links to its blobs. Else the folder itself.
    """
    if models_dir is not None and folder.is_relative_to(models_dir):
        return models_dir
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith(_HUB):
        return folder.parent.parent
    return folder


def _name_problem(id_: str, found: Scan) -> str | None:
    if not ID.fullmatch(id_):
        return "its name cannot be that of a model; give it an entry in models.yaml"
    if id_ in found.folders:
        return f"{found.folders[id_]} is called {id_} already; give it an entry in models.yaml"
    return None


def _candidates(root: Path) -> Iterator[tuple[str, Path, str | None]]:
    """Yield name, folder, and what is wrong with it if that shows already."""
    for folder in _folders(root):
        if folder.name.startswith(_HUB):
            name = folder.name.removeprefix(_HUB).replace("--", "/")
            found = _snapshot(folder)
            if found is not None or (folder / "snapshots").is_dir():
                yield name, found or folder, None if found else "none of its snapshots is the one that refs/main names"
        elif (problem := _problem(folder)) is not _NO_MODEL:
            yield folder.name, folder, problem
        else:
            for inner in _folders(folder):
                if (problem := _problem(inner)) is not _NO_MODEL:
                    yield f"{folder.name}/{inner.name}", inner, problem


_NO_MODEL = "no model"


def _problem(folder: Path) -> str | None:
    if (folder / CONFIG).exists():
        return None
    weights = next((path.name for path in _listed(folder) if path.name.endswith(_WEIGHTS)), None)
    return _NO_MODEL if weights is None else f"it holds {weights} but no {CONFIG}"


def _snapshot(folder: Path) -> Path | None:
    """Return the snapshot that `refs/main` names, or the only one there is."""
    try:
        revision = read_bytes(folder / "refs" / "main", max_bytes=200).decode("ascii", "replace").strip()
    except JsonFileError:
        snapshots = list(_folders(folder / "snapshots"))
        return snapshots[0] if len(snapshots) == 1 else None
    named = folder / "snapshots" / revision
    return named if re.fullmatch(r"[A-Za-z0-9]+", revision) and named.is_dir() else None


def _folders(folder: Path) -> Iterator[Path]:
    yield from (path for path in _listed(folder) if path.is_dir() and not path.name.startswith("."))


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry, _ in zip(entries, range(_MAX_FOLDERS), strict=False))
    except OSError:
        return []
