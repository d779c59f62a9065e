"""models.yaml → frozen model specs; all of its validation messages.

Reads models.yaml, and of a model's folder only whether it exists and what type its
`config.json` names. It neither looks at weights nor at devices, and a folder that is not
on this machine is no error here: a gateway may run where no model does.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from workers.document import Document, DocumentError, Place, read
from workers.model_schema import FileSchema, ModelSchema, RolloutSchema, check_id, problems

DEMO_PATH = "builtin:demo"
"""The `path:` that means the demo model which comes with the product."""

# By the start of `model_type` in a model's config.json, as vLLM names its parsers.
_TOOL_PARSERS = (("qwen", "hermes"), ("llama", "llama3_json"), ("mistral", "mistral"))


class RegistryError(Exception):
    """models.yaml cannot be used. The text names file, line and key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSpec:
    """How the simulated engine behaves; see `workers.engine.sim`."""

    load_s: float = 0.0
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    seats: int = 256
    memory_mib: int = 1000
    faults: bool = False
    """Whether a request may ask for a failure; see `workers.engine.sim_faults`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """How much work may wait for a model, and how long."""

    max_depth: int = 1000
    max_wait_s: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One entry of models.yaml."""

    id: str
    engine: str = "vllm"
    path: str | None = None
    """An existing folder (absolute once loaded), or a Hugging Face repository."""
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    memory_mib: int | None = None
    max_model_len: int | None = None
    replicas_min: int = 0
    replicas_max: int = 1
    idle_ttl_s: float | None = 900.0
    exclusive: bool = False
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's own names and values."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    queue: QueueSpec = field(default_factory=QueueSpec)
    sim: SimSpec = field(default_factory=SimSpec)


@dataclass(frozen=True, slots=True)
class Registry:
    """The models of one models.yaml, by id, with every alias resolved."""

    models: Mapping[str, ModelSpec]
    aliases: Mapping[str, str]
    """Alias → model id."""

    @classmethod
    def load(cls, path: Path, models_dir: Path | None = None) -> Registry:
        """Read `path`. Raises RegistryError, also when the file is missing.

        A relative `path:` of a model is looked for in `models_dir`, then beside `path`.
        The error lists every problem of the file, one a line, except that a file which
        is not YAML is given up at the first.
        """
        try:
            document = read(path)
        except DocumentError as error:
            raise RegistryError(_line(path, error.line, error.place, error.text)) from None
        found = sorted((document.line(place), place, text) for place, text in _problems(document))
        if found:
            raise RegistryError("\n".join(_line(path, *problem) for problem in found))
        entries: dict[str, dict[str, Any]] = document.data["models"]
        aliases = {name: rollout["desired"] for name, rollout in document.data.get("aliases", {}).items()}
        extra = {model: tuple(name for name, desired in aliases.items() if desired == model) for model in entries}
        folders = tuple(folder.absolute() for folder in (models_dir, path.parent) if folder is not None)
        models = {id_: _spec(id_, entry, extra[id_], folders) for id_, entry in entries.items()}
        return cls(models, {alias: spec.id for spec in models.values() for alias in spec.aliases})

    def resolve(self, name: str) -> ModelSpec | None:
        """Return the model called `name`, directly or by alias."""
        return self.models.get(self.aliases.get(name, name))


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
    for section, schema in (("models", ModelSchema()), ("aliases", RolloutSchema())):
        entries = data.get(section)
        for name, entry in (entries if isinstance(entries, dict) else {}).items():
            yield from _name_problem(name, (section, name))
            yield from problems(schema, entry, (section, name))
    if not top:
        yield from _clashes(data["models"], data.get("aliases", {}))


def _name_problem(name: str, place: Place) -> Iterator[tuple[Place, str]]:
    try:
        check_id(name)
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
                yield ("aliases", name, key), f'there is no model "{target}"'


def _alias_uses(models: dict[str, Any], rollouts: dict[str, Any]) -> Iterator[tuple[Place, str, str]]:
    for id_, entry in models.items():
        aliases = entry.get("aliases") if isinstance(entry, dict) else None
        for i, alias in enumerate(aliases if isinstance(aliases, list) else ()):
            if isinstance(alias, str):
                yield ("models", id_, "aliases", i), alias, id_
    for name in rollouts:
        yield ("aliases", name), name, "aliases"


def _spec(id_: str, entry: dict[str, Any], extra: tuple[str, ...], folders: tuple[Path, ...]) -> ModelSpec:
    """Build the spec of a checked entry; `extra` are its aliases from the top level."""
    flat = {key: value for key, value in entry.items() if value is not None or key == "idle_ttl_s"}
    flat["aliases"] = (*flat.get("aliases", ()), *extra)
    replicas = flat.pop("replicas", {})
    low = replicas.get("min", 0)
    flat |= {"replicas_min": low, "replicas_max": replicas.get("max", max(low, 1))}
    if "path" in flat:
        flat["path"] = _resolve(flat["path"], folders)
    if flat.get("engine", "vllm") == "vllm":
        flat.setdefault("tool_call_parser", _tool_parser(Path(flat["path"])))
    if "queue" in flat:
        flat["queue"] = QueueSpec(**flat["queue"])
    if "sim" in flat:
        flat["sim"] = SimSpec(**flat["sim"])
    return ModelSpec(id=id_, **flat)


def _resolve(path: str, folders: tuple[Path, ...]) -> str:
    """Return the folder that `path` names, or `path` itself if it is a Hugging Face repository.

    1. `builtin:demo` is the demo model's folder; an absolute path is taken as it is.
    2. The first of `folders` that has it wins.
    3. Else `owner/name` is a repository, and anything else a folder still to come.
    """
    if path == DEMO_PATH:
        return str(_demo_folder())
    if (given := Path(path).expanduser()).is_absolute():
        return str(given)
    for folder in folders:
        if (folder / given).is_dir():
            return str((folder / given).resolve())
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path):
        return path
    return str(folders[0] / given)


def _demo_folder() -> Path:
    # By name: `deploy` stands above this package, so it must not be imported from here.
    package = importlib.util.find_spec("deploy.demo_model")
    if package is None or package.origin is None:
        raise RegistryError(f"`path: {DEMO_PATH}`: the package deploy.demo_model is not installed here")
    return Path(package.origin).parent / "model"


def _tool_parser(folder: Path) -> str | None:
    """Choose by the model's type; None when there is no folder, or a type we do not know."""
    try:
        kind = json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return next((parser for start, parser in _TOOL_PARSERS if str(kind).startswith(start)), None)
