"""Whether the files that a process was made of are still what they were when it imported them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_OURS = ("tasks", "workers")


class Sources:
    """Made before the first import, so that what changes meanwhile counts as changed."""

    def __init__(self) -> None:
        self._times = dict(_times(_our_files()))
        self._libraries: dict[Path, int] = {}

    def imported(self) -> None:
        """Take in the libraries that have been imported. Of each only its first file, which an upgrade replaces."""
        tops = [module for name, module in list(sys.modules.items()) if "." not in name]
        files = (getattr(module, "__file__", None) for module in tops)
        self._libraries = dict(_times(Path(file) for file in files if file))

    def have_changed(self) -> bool:
        return dict(_times(_our_files())) != self._times or dict(_times(self._libraries)) != self._libraries


def _our_files() -> Iterator[Path]:
    yield _ROOT / "celeryconfig.py"
    for package in _OURS:
        for kind in ("*.py", "*.lua"):
            yield from (_ROOT / package).rglob(kind)


def _times(files: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    for file in files:
        try:
            yield file, file.stat().st_mtime_ns
        except OSError:
            yield file, 0
