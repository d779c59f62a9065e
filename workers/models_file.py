"""models.yaml, read and checked: what it says about each model, alias and device, as it says it.

Every problem of the file is found at once and told with its line and key. Turning an
entry into a spec is `workers.registry`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from workers.document import Document, DocumentError, Place, read
from workers.model_schema import DeviceSchema, FileSchema, ModelSchema, RolloutSchema, check_device, check_id, problems


class ModelsFileError(Exception):
    """models.yaml cannot be used. The text names file, line and key of each problem, one a line."""


@dataclass(frozen=True, slots=True)
class ModelsFile:
    entries: Mapping[str, Mapping[str, Any]]
    """Model id → its keys, checked and not yet interpreted."""
    rollouts: Mapping[str, Mapping[str, Any]]
    """Alias → `desired` and `previous`."""
    devices: Mapping[str, Mapping[str, Any]]
    """Pattern of devices → what they are for, in the order of the file."""


def read_models_file(path: Path) -> ModelsFile:
    """Raises ModelsFileError, also when the file is missing.

    All problems are told at once, except that a file which is not YAML is given up at the first.
    """
    try:
        document = read(path)
    except DocumentError as error:
        raise ModelsFileError(_line(path, error.line, error.place, error.text)) from None
    found = [(document.line(place), place, text) for place, text in _problems(document)]
    if found:
        found.sort(key=lambda problem: (problem[0], [str(step) for step in problem[1]]))
        raise ModelsFileError("\n".join(_line(path, *problem) for problem in found))
    data = document.data
    return ModelsFile(data["models"], data.get("aliases", {}), data.get("devices", {}))


def _line(path: Path, line: int, place: Place, text: str) -> str:
    where = f"{path}:{line}" if line else str(path)
    key = ".".join(str(step) for step in place)
    return f"{where}: {key}: {text}" if key else f"{where}: {text}"


def _problems(document: Document) -> Iterator[tuple[Place, str]]:
    data = document.data
    top = list(problems(FileSchema(), data, ()))
    yield from top
    if not isinstance(data, dict):
        return
    for section, schema, check_name in _SECTIONS:
        entries = data.get(section)
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            yield from _name_problem(name, check_name, (section, name))
            yield from problems(schema, entry, (section, name))
    if not top:
        yield from _clashes(data["models"], data.get("aliases", {}))


_SECTIONS = (
    ("models", ModelSchema(), check_id),
    ("aliases", RolloutSchema(), check_id),
    ("devices", DeviceSchema(), check_device),
)


def _name_problem(name: str, check: Callable[[str], None], place: Place) -> Iterator[tuple[Place, str]]:
    try:
        check(name)
    except ValidationError as error:
        yield place, str(error.messages[0])


def _clashes(models: dict[str, Any], rollouts: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """What is wrong between entries: a name used twice, a rollout to a model that is not there."""
    owner: dict[str, str] = {}
    for place, alias, model in _alias_uses(models, rollouts):
        if alias in models:
            yield place, f'"{alias}" is the id of a model already'
        elif alias in owner:
            yield place, f'the alias "{alias}" is given twice; "{owner[alias]}" has it already'
        owner.setdefault(alias, model)
    for name, rollout in rollouts.items():
        for key in ("desired", "previous") if isinstance(rollout, dict) else ():
            target = rollout.get(key)
            if isinstance(target, str) and target not in models:
                yield ("aliases", name, key), f'there is no model "{target}" in this file'


def _alias_uses(models: dict[str, Any], rollouts: dict[str, Any]) -> Iterator[tuple[Place, str, str]]:
    for id_, entry in models.items():
        aliases = entry.get("aliases") if isinstance(entry, dict) else None
        for i, alias in enumerate(aliases if isinstance(aliases, list) else ()):
            if isinstance(alias, str):
                yield ("models", id_, "aliases", i), alias, id_
    for name in rollouts:
        yield ("aliases", name), name, "aliases"
