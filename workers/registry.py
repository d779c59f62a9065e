"""What can be served here: models.yaml and the folders of the models directory, as frozen specs.

An entry of models.yaml wins over the folder it names; every other folder with a model
that vLLM can serve is a model too. It looks at no device and loads no weights, and a
folder that is not on this machine is no error: a gateway may run where no model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers import model_paths
from workers.layout import Layout
from workers.model_folder import FolderReader, ModelFolder, ModelFolderError
from workers.model_paths import DEMO_PATH, ModelPathError
from workers.models_dir import Scan, root_of, scan
from workers.models_file import ModelsFile, ModelsFileError, read_models_file
from workers.parsers import Parsers
from workers.servable import refusal

__all__ = ["DEMO_PATH", "ModelSpec", "QueueSpec", "Registry", "RegistryError", "Rollout", "SimSpec"]


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
    sleep_mib: int | None = None
    """What it keeps of that while it sleeps; None: it cannot sleep."""
    sleep_s: float = 0.05
    wake_s: float = 0.1
    faults: bool = False
    """Whether a request may ask for a failure; see `workers.engine.sim_faults`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """How much work may wait for a model, and how long."""

    max_depth: int = 1000
    max_wait_s: float = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model: an entry of models.yaml, or a folder without one under the defaults."""

    id: str
    engine: str = "vllm"
    path: str | None = None
    """An existing folder (absolute once loaded), or a Hugging Face repository."""
    aliases: tuple[str, ...] = ()
    """Every name that leads here, also those of rollouts."""
    pinned: bool = False
    devices: tuple[str, ...] = ()
    """The only devices it may be on, as `workers.layout` reads them; empty: any."""
    memory_mib: int | None = None
    """Of one replica on each of its devices."""
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
class Rollout:
    """An alias that moves from one model to another: `previous` serves until `desired` is ready."""

    desired: str
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """The models, by id, and every name that leads to one."""

    models: Mapping[str, ModelSpec]
    aliases: Mapping[str, str]
    """Alias → model id; a rollout's leads to `desired`."""
    rollouts: Mapping[str, Rollout] = field(default_factory=dict)
    """Those of the aliases that move. One model may be the target of several."""
    folders: Mapping[str, ModelFolder] = field(default_factory=dict)
    """Model id → what its folder holds, where it is on this machine and can be read."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Model id → why it cannot be loaded from the folder its entry names."""
    skipped: Mapping[Path, str] = field(default_factory=dict)
    """What looks like a model in the models directory and is none, with the reason."""
    layout: Layout = field(default_factory=Layout)
    """What its devices are for."""

    @classmethod
    def load(cls, path: Path, models_dir: Path | None = None, reader: FolderReader | None = None) -> Registry:
        """Read `path`, and the folders of `models_dir` where there is one.

        Raises RegistryError, also when the file is missing; the error lists every problem
        of the file, one a line. A `reader` that is kept makes the next load cheap. A relative
        `path:` of a model is looked for in `models_dir`, then beside `path`.
        """
        try:
            file = read_models_file(path)
            places = {
                id_: model_paths.resolve(entry["path"], models_dir, path.parent)
                for id_, entry in file.entries.items()
                if "path" in entry
            }
        except (ModelsFileError, ModelPathError) as error:
            raise RegistryError(str(error)) from None
        top = None if models_dir is None else models_dir.absolute()
        return _Loading(file, places, top, reader or FolderReader()).registry()

    def resolve(self, name: str) -> ModelSpec | None:
        """Return the model called `name`, directly or by alias."""
        return self.models.get(self.aliases.get(name, name))

    def targets(self, name: str) -> tuple[ModelSpec, ModelSpec | None] | None:
        """Return what `name` should lead to, and what serves it until that is ready; None for an unknown name."""
        desired = self.resolve(name)
        if desired is None:
            return None
        rollout = self.rollouts.get(name)
        previous = rollout.previous if rollout is not None and rollout.previous != desired.id else None
        return desired, None if previous is None else self.models[previous]


class _Loading:
    """One reading of the models directory under one models.yaml."""

    def __init__(self, file: ModelsFile, places: Mapping[str, str], top: Path | None, reader: FolderReader) -> None:
        self._file = file
        self._places = places
        self._top = top
        self._reader = reader
        self._rollouts = {name: Rollout(**rollout) for name, rollout in file.rollouts.items()}
        self._models: dict[str, ModelSpec] = {}
        self._folders: dict[str, ModelFolder] = {}
        self._problems: dict[str, str] = {}

    def registry(self) -> Registry:
        for id_, entry in self._file.entries.items():
            self._add_entry(id_, entry)
        aliases = {alias: spec.id for spec in self._models.values() for alias in spec.aliases}
        found = Scan() if self._top is None else scan(self._top)
        skipped = dict(found.skipped)
        owned = {folder.path.resolve() for folder in self._folders.values()}
        for id_, folder in found.folders.items():
            if folder.resolve() not in owned and (why := self._add_folder(id_, folder, aliases)) is not None:
                skipped[folder] = why
        self._reader.forget_all_but([*map(Path, self._places.values()), *found.folders.values()])
        layout = Layout.of_entries(self._file.devices)
        return Registry(self._models, aliases, self._rollouts, self._folders, self._problems, skipped, layout)

    def _add_entry(self, id_: str, entry: Mapping[str, Any]) -> None:
        place = self._places.get(id_)
        folder = None
        if place is not None and entry.get("engine", "vllm") == "vllm" and Path(place).is_dir():
            folder = self._read(id_, Path(place), entry)
        names = tuple(name for name, rollout in self._rollouts.items() if rollout.desired == id_)
        self._models[id_] = _spec(id_, entry, names, place, folder.parsers if folder else Parsers())

    def _read(self, id_: str, path: Path, entry: Mapping[str, Any]) -> ModelFolder | None:
        """Return what the entry's folder holds, and note whatever speaks against serving it."""
        try:
            self._folders[id_] = folder = self._reader.read(path, root_of(path, self._top))
        except ModelFolderError as error:
            self._problems[id_] = f"{path}: {error}"
            return None
        if (why := refusal(folder, entry.get("engine_args", {}), entry.get("max_model_len"))) is not None:
            self._problems[id_] = f"{path}: {why}"
        return folder

    def _add_folder(self, id_: str, path: Path, aliases: Mapping[str, str]) -> str | None:
        """Make a model of a folder that no entry names. Returns why not, if it cannot be one."""
        if id_ in self._models or id_ in aliases:
            return f"models.yaml calls another model {id_}; name this folder there by its `path:`"
        assert self._top is not None
        try:
            folder = self._reader.read(path, self._top)
        except ModelFolderError as error:
            return str(error)
        if (why := refusal(folder, {}, None)) is not None:
            return why
        self._folders[id_] = folder
        self._models[id_] = _spec(id_, {}, (), str(path), folder.parsers)
        return None


def _spec(
    id_: str, entry: Mapping[str, Any], rollouts: tuple[str, ...], path: str | None, parsers: Parsers
) -> ModelSpec:
    """Build the spec of a checked entry; `rollouts` are the aliases that should lead to it."""
    flat = {key: value for key, value in entry.items() if value is not None or key in _NULL_MEANS_NONE}
    flat["aliases"] = (*flat.get("aliases", ()), *rollouts)
    flat["devices"] = tuple(flat.get("devices", ()))
    replicas = flat.pop("replicas", {})
    low = replicas.get("min", 0)
    flat |= {"replicas_min": low, "replicas_max": replicas.get("max", max(low, 1)), "path": path}
    if flat.get("engine", "vllm") == "vllm":
        flat.setdefault("tool_call_parser", parsers.tool_call_parser)
        flat.setdefault("reasoning_parser", parsers.reasoning_parser)
        flat["chat_template_kwargs"] = {**parsers.chat_template_kwargs, **flat.get("chat_template_kwargs", {})}
    if "queue" in flat:
        flat["queue"] = QueueSpec(**flat["queue"])
    if "sim" in flat:
        flat["sim"] = SimSpec(**flat["sim"])
    return ModelSpec(id=id_, **flat)


# Of other keys, null is as good as leaving them out.
_NULL_MEANS_NONE = frozenset({"idle_ttl_s", "tool_call_parser", "reasoning_parser"})
