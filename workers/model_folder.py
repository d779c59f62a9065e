"""One model's folder in Hugging Face's layout: what it holds, as far as that shows without loading it.

The folder is somebody else's. Nothing in it is run, no tensor is read, every file is
read up to a bound, and a symlink that leads out of the place where models live is refused,
wherever it leads. Whether vLLM can serve what is found is `workers.servable`'s to say.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.json_file import JsonFileError, parse_object, read_bytes, read_object
from workers.model_config import ConfigError, ModelConfig, model_config
from workers.parsers import Parsers, choose
from workers.weights import Weights, WeightsError, measure

CONFIG = "config.json"
_MAX_BYTES = 8_000_000
_MAX_ENTRIES = 10_000
# Formats that run code when they are opened, or that vLLM does not take.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx")
# What vLLM takes from generation_config.json for a request that does not say.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")

Signature = tuple[tuple[str, int, int, int, int], ...]
"""Changes whenever a file of a folder is replaced or written to."""


class ModelFolderError(Exception):
    """The folder cannot be used. The text says why, without naming the folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    path: Path
    raw_config: Mapping[str, Any]
    config: ModelConfig
    weights: Weights | None
    """None when there is no safetensors file."""
    other_weights: tuple[str, ...]
    """Files with weights in a format that is never loaded."""
    tokenizer_code: bool
    """The tokenizer brings Python code of its own."""
    parsers: Parsers
    sampling: Mapping[str, float]
    """What its maker recommends, by the names of a request's fields."""
    fingerprint: str
    """The same wherever the same model lies; changes with its config or its weights' sizes."""


def read(folder: Path, root: Path) -> ModelFolder:
    """Read the model in `folder`, which must lie in `root` with all it holds. Raises ModelFolderError."""
    try:
        names = _names(folder, root)
        if CONFIG not in names:
            raise ModelFolderError("it holds no config.json, so it is not a model in Hugging Face's layout")
        raw = read_bytes(folder / CONFIG, max_bytes=_MAX_BYTES)
        config = parse_object(raw, CONFIG)
        tokenizer = _optional(folder, "tokenizer_config.json", names)
        interpreted = model_config(config)
        weights = measure(folder)
        return ModelFolder(
            path=folder,
            raw_config=config,
            config=interpreted,
            weights=weights,
            other_weights=tuple(name for name in names if name.endswith(_OTHER_WEIGHTS)),
            tokenizer_code="auto_map" in tokenizer,
            parsers=choose(interpreted.model_type, _template(folder, names, tokenizer)),
            sampling=_sampling(_optional(folder, "generation_config.json", names)),
            fingerprint=_fingerprint(raw, folder, weights),
        )
    except (JsonFileError, ConfigError, WeightsError) as error:
        raise ModelFolderError(str(error)) from None
    except OSError as error:
        raise ModelFolderError(f"cannot be read: {error.strerror or error}") from None


def signature(folder: Path) -> Signature:
    """Return what changes when something in `folder` does; empty when there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(_stamp(entry) for entry, _ in zip(entries, range(_MAX_ENTRIES), strict=False)))
    except OSError:
        return ()


class FolderReader:
    """Reads folders, and each again only when something in it has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Path, Signature, ModelFolder | ModelFolderError]] = {}

    def read(self, folder: Path, root: Path) -> ModelFolder:
        """See `read`. Raises ModelFolderError."""
        # Taken first, so that what changes while it is read is seen the next time.
        now = signature(folder)
        known = self._known.get(folder)
        if known is None or known[:2] != (root, now):
            self._known[folder] = known = (root, now, _read_or_error(folder, root))
        if isinstance(known[2], ModelFolderError):
            raise ModelFolderError(str(known[2]))
        return known[2]

    def seen(self, folder: Path) -> Signature:
        """Return the signature that `folder` had when it was last read; empty when it was not."""
        known = self._known.get(folder)
        return () if known is None else known[1]

    def forget_all_but(self, folders: Iterable[Path]) -> None:
        kept = set(folders)
        self._known = {folder: known for folder, known in self._known.items() if folder in kept}


def _read_or_error(folder: Path, root: Path) -> ModelFolder | ModelFolderError:
    try:
        return read(folder, root)
    except ModelFolderError as error:
        return error


def _stamp(entry: os.DirEntry[str]) -> tuple[str, int, int, int, int]:
    try:
        found = entry.stat()
    except OSError:  # a link to nothing
        return entry.name, 0, 0, 0, 0
    # A copy can keep the old time of change; it cannot keep the time at which that was set.
    return entry.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _names(folder: Path, root: Path) -> list[str]:
    """Return what lies in the folder. Raises ModelFolderError when any of it leads out of `root`."""
    top = root.resolve()
    if not folder.resolve().is_relative_to(top):
        raise ModelFolderError(f"it is a symlink that leads out of {root}; name the folder itself in models.yaml")
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(top):
                raise ModelFolderError(f"{entry.name} is a symlink that leads out of {root}")
            names.append(entry.name)
            if len(names) > _MAX_ENTRIES:
                raise ModelFolderError(f"it holds more than {_MAX_ENTRIES:,} files; that cannot be meant")
    return sorted(names)


def _optional(folder: Path, name: str, names: list[str]) -> dict[str, Any]:
    return read_object(folder / name, max_bytes=_MAX_BYTES) if name in names else {}


def _template(folder: Path, names: list[str], tokenizer: Mapping[str, Any]) -> str | None:
    """Return the chat template, or all of them in one text; None when nothing says whether there is one."""
    if "chat_template.jinja" in names:
        return read_bytes(folder / "chat_template.jinja", max_bytes=_MAX_BYTES).decode("utf-8", "replace")
    match tokenizer.get("chat_template"):
        case str(text):
            return text
        case [*templates]:
            return "\n".join(str(each.get("template", "")) for each in templates if isinstance(each, dict))
    return None


def _sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    found = {name: generation.get(name) for name in _SAMPLING}
    return {
        name: value for name, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _fingerprint(config: bytes, folder: Path, weights: Weights | None) -> str:
    digest = hashlib.sha256(config)
    for name in weights.files if weights is not None else ():
        digest.update(f"\0{name}\0{(folder / name).stat().st_size}".encode())
    return digest.hexdigest()[:16]
