"""`celerity doctor MODEL`: what one model is, what a replica of it takes, and where that would fit.

`examine` is pure; `run` gathers what it is told and prints what it answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from deploy import fitting, preflight
from deploy.errors import CommandError
from deploy.fitting import Here, Place
from tasks.connections import command_client
from tasks.records.measurements import MeasurementStore
from tasks.settings import Settings
from workers import inventory
from workers.devices import Device, DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.needs import Estimate, NeedUnknownError, Term, estimate
from workers.model_config import ConfigError, ModelConfig
from workers.model_folder import ModelFolder
from workers.registry import ModelSpec, Registry
from workers.servable import effective_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What there is to say of one model. Texts are for people."""

    spec: ModelSpec
    facts: tuple[tuple[str, str], ...]
    """Name and value, in the order to be shown."""
    need: Estimate | None
    """On the first device where that is known, which stands for its kind."""
    problem: str | None
    places: tuple[Place, ...]
    instead_of: tuple[Term, ...] = ()
    """What the measured term of `need` was estimated at."""

    @property
    def can_run(self) -> bool:
        return self.problem is None and any(place.fits for place in self.places)


def run(settings: Settings, name: str) -> int:
    """Print the report; return 1 when the model could not run here. Raises CommandError for an unknown model."""
    registry = preflight.load_registry(settings.models, settings.models_dir)
    spec = _spec(registry, name, settings)
    here = Here(
        devices=inventory.survey(memory_mib=settings.memory_mib).devices,
        node=settings.node_id,
        measured=_measured(settings, spec.id),
        layout=registry.layout,
    )
    report = examine(spec, registry.folders.get(spec.id), preflight.model_problem(spec, registry), here)
    Console().print(drawn(report))
    return 0 if report.can_run else 1


def examine(spec: ModelSpec, folder: ModelFolder | None, problem: str | None, here: Here) -> Report:
    found = fitting.places(spec, folder, here)
    first = next((place for place in found if place.need is not None), None)
    if first is None and problem is None and here.devices:
        problem = _unknown(spec, folder, here.devices[0])
    need = first.need if first else None
    facts = [*_facts(spec, folder, need), *_loads(here)]
    instead = () if first is None else _estimated(spec, folder, first)
    return Report(
        spec=spec, facts=tuple(facts), need=need, problem=problem, places=tuple(found), instead_of=tuple(instead)
    )


def _measured(settings: Settings, model: str) -> Mapping[DeviceKind, Measured]:
    """Return what loads of the model took, if a Redis is there to tell it."""
    try:
        with contextlib.closing(command_client(settings.redis_url)) as client:
            return MeasurementStore(client).all().get(model, {})
    except (redis.RedisError, OSError):
        return {}


def _loads(here: Here) -> Iterator[tuple[str, str]]:
    for kind, seen in here.measured.items():
        if seen.load_s is not None:
            yield "loads in", f"{seen.load_s:.1f} s on {kind}, as measured"


def _estimated(spec: ModelSpec, folder: ModelFolder | None, place: Place) -> Iterator[Term]:
    """Yield the terms that a measurement took the place of."""
    if place.need is None or place.need.terms[0].name != "measured":
        return
    terms = estimate(spec, folder, place.device.kind, device_total_mib=place.device.total_mib).terms
    yield from (term for term in terms if term.name != "KV cache")


def drawn(report: Report) -> Group:
    head = Text(report.spec.id, style="bold")
    if report.spec.aliases:
        head.append(f"  also called {', '.join(report.spec.aliases)}", style="not bold")
    parts: list[Text | Table] = [head, _table(report.facts)]
    if report.need is not None:
        parts += [
            Text(f"\nmemory of one replica, {report.need.source}{_each(report.need)}", style="bold"),
            _memory(report.need, report.instead_of),
        ]
    if report.problem is not None:
        parts.append(Text(f"\n✗ {report.problem}", style="red"))
    if report.need is None:
        return Group(*parts)
    parts.append(Text("\non this machine", style="bold"))
    for place in report.places:
        text, colour = ("✓", "green") if place.fits else ("✗", "yellow")
        named = f"{place.device.id} {place.device.name}".strip()
        parts.append(Text.assemble((f"{text} ", colour), f"{named}: {place.text}"))
    return Group(*parts)


def _spec(registry: Registry, name: str, settings: Settings) -> ModelSpec:
    if (spec := registry.resolve(name)) is not None:
        return spec
    for folder, why in registry.skipped.items():
        if _called(folder, name):
            raise CommandError(f"{folder} is no model: {why}")
    there = ", ".join(sorted({*registry.models, *registry.aliases})) or "none"
    raise CommandError(f"there is no model {name!r} in {settings.models} or the models directory; there are: {there}")


def _called(folder: Path, name: str) -> bool:
    return str(folder).endswith(f"/{name}") or f"models--{name.replace('/', '--')}" in folder.parts


def _unknown(spec: ModelSpec, folder: ModelFolder | None, device: Device) -> str | None:
    try:
        estimate(spec, folder, device.kind)
    except NeedUnknownError as error:
        return str(error)
    return None


def _facts(spec: ModelSpec, folder: ModelFolder | None, need: Estimate | None) -> Iterator[tuple[str, str]]:
    if spec.engine == "sim":
        yield "engine", "simulated"
        return
    yield "weights", spec.path or spec.id
    if folder is None:
        yield "", "not on this machine, or not to be used; what config.json says is not known"
    else:
        yield from _config_facts(spec, folder)
    yield "tool calls", spec.tool_call_parser or "none"
    off = " (off unless a request asks for them)" if spec.chat_template_kwargs.get("enable_thinking") is False else ""
    yield "thoughts", (spec.reasoning_parser or "none") + (off if spec.reasoning_parser else "")
    if need is not None and need.setup is not None:
        yield "context", f"{need.setup.context:,} tokens"
        yield "at once", f"up to {need.setup.seats} sequences, {need.setup.batch:,} tokens a step"


def _config_facts(spec: ModelSpec, folder: ModelFolder) -> Iterator[tuple[str, str]]:
    try:
        config = effective_config(folder, spec.engine_args)
    except ConfigError:
        return
    yield "architecture", f"{config.architecture} ({config.model_type})"
    yield "numbers", _numbers(spec, config)
    yield "made for", f"{config.context:,} tokens"
    if folder.sampling:
        yield "sampling", ", ".join(f"{name} {value:g}" for name, value in folder.sampling.items())


def _numbers(spec: ModelSpec, config: ModelConfig) -> str:
    dtype = spec.engine_args.get("dtype")
    text = dtype if isinstance(dtype, str) and dtype != "auto" else config.dtype
    if (made := config.quantization) is not None:
        return f"{text}, quantized with {made.method} to {made.bits} bits"
    return text


def _each(need: Estimate) -> str:
    return f", on each of {need.devices} devices" if need.devices > 1 else ""


def _memory(need: Estimate, instead_of: Sequence[Term]) -> Table:
    rows = [(term.name, term.mib, term.how) for term in need.terms]
    if instead_of:
        measured, *others = need.terms
        how = f"all but the KV cache, instead of the {sum(term.mib for term in instead_of):,} MiB above"
        rows = [(term.name, term.mib, term.how) for term in (*instead_of, replace(measured, how=how), *others)]
    enough = f"{need.least_mib:,} would do, for one sequence of full length" if need.least_mib < need.mib else ""
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column()
    drawn.add_column(justify="right")
    drawn.add_column()
    for name, mib, how in [*rows, ("in all", need.mib, enough)]:
        drawn.add_row(Text(f"  {name}"), Text(f"{mib:,} MiB"), Text(how))
    return drawn


def _table(rows: Sequence[tuple[str, str]]) -> Table:
    drawn = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        drawn.add_row(Text(f"  {name}"), Text(value))
    return drawn
