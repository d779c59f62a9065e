"""The registry as it is now: models.yaml and the models directory, looked at every two seconds.

By polling, since a change on a network share or under a container's mount wakes nobody.
A look costs a few system calls a folder; files are read again only when they have changed.
A bad edit changes nothing but is reported once, with file, line and key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workers.model_folder import FolderReader, Signature, signature
from workers.models_dir import scan
from workers.registry import Registry, RegistryError

INTERVAL_S = 2.0

_Look = tuple[object, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a look found. With a `problem` models.yaml cannot be used, and the registry is still the one before."""

    registry: Registry
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Models whose entry or folder is another now; what runs was started from the one before."""
    problem: str | None = None


class RegistryWatch:
    """Keeps one registry up to date. To be polled by one thread; `current` may be asked by any."""

    def __init__(self, models: Path, models_dir: Path | None = None, *, interval_s: float = INTERVAL_S) -> None:
        """Raises RegistryError: at the start there is no registry before to keep."""
        self._models = models
        self._models_dir = models_dir
        self._interval_s = interval_s
        self._reader = FolderReader()
        self._looked_at: float | None = None
        self._problem: str | None = None
        # Before the first reading, so that what changes in between is seen at the first poll.
        seen = self._look(())
        self._registry = Registry.load(models, models_dir, self._reader)
        self._seen = self._with_places(seen)

    def current(self) -> Registry:
        return self._registry

    def poll(self, now: float) -> Change | None:
        """Look if it is time to; `now` counts seconds and never goes back. None when nothing is new."""
        if self._looked_at is not None and now - self._looked_at < self._interval_s:
            return None
        return self.refresh(now)

    def refresh(self, now: float) -> Change | None:
        """As `poll`, but look at once: for whoever is asked for a model that others may know already."""
        self._looked_at = now
        look = self._look(self._places())
        if look == self._seen:
            return None
        self._seen = look
        return self._reload()

    def _reload(self) -> Change | None:
        before = self._registry
        try:
            after = Registry.load(self._models, self._models_dir, self._reader)
        except RegistryError as error:
            known, self._problem = self._problem, str(error)
            return None if known == self._problem else Change(registry=before, problem=self._problem)
        mended, self._problem = self._problem is not None, None
        self._registry = after
        self._seen = self._with_places(self._seen)
        if after == before and not mended:
            return None
        return Change(
            registry=after,
            added=tuple(sorted(after.models.keys() - before.models.keys())),
            removed=tuple(sorted(before.models.keys() - after.models.keys())),
            changed=tuple(
                sorted(id_ for id_ in after.models.keys() & before.models.keys() if _differs(id_, before, after))
            ),
        )

    def _places(self) -> tuple[Path, ...]:
        """The folders that models name, wherever they are; they may come and go."""
        paths = {
            spec.path for spec in self._registry.models.values() if spec.path is not None and spec.engine == "vllm"
        }
        return tuple(sorted(path for path in map(Path, paths) if path.is_absolute()))

    def _look(self, places: tuple[Path, ...]) -> _Look:
        folders: dict[Path, Signature] = {}
        if self._models_dir is not None:
            folders = {folder: signature(folder) for folder in scan(self._models_dir.absolute()).folders.values()}
        return (_stamp(self._models), folders, {place: signature(place) for place in places})

    def _with_places(self, look: _Look) -> _Look:
        """Return `look` with the places that the registry has now, as they were when they were read."""
        return (*look[:2], {place: self._reader.seen(place) for place in self._places()})


def _differs(id_: str, before: Registry, after: Registry) -> bool:
    return before.models[id_] != after.models[id_] or before.folders.get(id_) != after.folders.get(id_)


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
