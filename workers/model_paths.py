"""Where the `path:` of an entry leads on this machine."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from workers import models_dir

DEMO_PATH = "builtin:demo"
"""The `path:` that means the demo model which comes with the product."""


class ModelPathError(Exception):
    """The path means something that is not installed here. The text says what."""


def resolve(path: str, models: Path | None, beside: Path) -> str:
    """Return the folder that `path` names, or `path` itself if it is a Hugging Face repository.

    1. `builtin:demo` is the demo model's folder; an absolute path is taken as it is.
    2. A folder of that name in the models directory wins, then one that is beside models.yaml.
    3. Then the repository of that name, where the models directory is a hub's cache that has it.
    4. Else `owner/name` is a repository, and anything else a folder still to come.
    """
    if path == DEMO_PATH:
        return str(demo_folder())
    if (given := Path(path).expanduser()).is_absolute():
        return str(given)
    folders = [folder.absolute() for folder in (models, beside) if folder is not None]
    for folder in folders:
        if (folder / given).is_dir():
            return str((folder / given).resolve())
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path):
        cached = models_dir.snapshot(folders[0], path) if models is not None else None
        return path if cached is None else str(cached)
    return str(folders[0] / given)


def demo_folder() -> Path:
    # By name: `deploy` stands above this package, so it must not be imported from here.
    package = importlib.util.find_spec("deploy.demo_model")
    if package is None or package.origin is None:
        raise ModelPathError(f"`path: {DEMO_PATH}`: the package deploy.demo_model is not installed here")
    return Path(package.origin).parent / "model"
