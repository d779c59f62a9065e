"""`celerity doctor`: what this machine has, what is missing, and how to fix it.

`examine` judges facts and touches nothing; gathering them is `machine`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from rich.console import Console
from rich.table import Table

from deploy import machine
from deploy.machine import Machine, ModelFacts
from tasks.settings import Settings
from workers.devices import Device

OLDEST_PYTHON = (3, 11)
# The log, the append-only file and a little room to rewrite it.
_DISK_MIB = 500


class Verdict(StrEnum):
    FINE = "✓"
    WORTH_KNOWING = "!"
    MISSING = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table. `fix` says what to do, unless all is fine."""

    verdict: Verdict
    subject: str
    text: str
    fix: str = ""


def run(settings: Settings) -> int:
    """Print the findings; return 1 when something that is needed is missing."""
    console = Console()
    with console.status("looking around; importing vLLM takes a while …"):
        findings = examine(machine.gather(settings))
    console.print(table(findings))
    missing = sum(finding.verdict is Verdict.MISSING for finding in findings)
    console.print(f"\n{missing} thing(s) to fix." if missing else "\nReady for `celerity up`.")
    return 1 if missing else 0


def examine(facts: Machine) -> list[Finding]:
    return [*_basics(facts), *_engine(facts), *_hardware(facts), *_models(facts)]


def table(findings: list[Finding]) -> Table:
    colours = {Verdict.FINE: "green", Verdict.WORTH_KNOWING: "yellow", Verdict.MISSING: "red"}
    drawn = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        colour = colours[finding.verdict]
        drawn.add_row(f"[{colour}]{finding.verdict}[/]", finding.subject, finding.text)
        if finding.fix:
            drawn.add_row("", "", f"[{colour}]→ {finding.fix}[/]")
    return drawn


def _check(ok: bool, subject: str, text: str, fix: str) -> Finding:
    return Finding(Verdict.FINE, subject, text) if ok else Finding(Verdict.MISSING, subject, text, fix)


def _basics(facts: Machine) -> Iterator[Finding]:
    python = ".".join(map(str, facts.python))
    yield _check(facts.python >= OLDEST_PYTHON, "Python", f"{python}, {facts.system}", "install Python 3.11 or newer")
    if facts.redis_given:
        fix = "start that Redis, or correct CELERITY_REDIS_URL"
        yield _check(facts.redis is not None, "Redis", facts.redis or "the one that is named does not answer", fix)
    else:
        fix = "run `make setup`, install redis-server or valkey-server, or set CELERITY_REDIS_URL"
        yield _check(facts.redis is not None, "Redis", facts.redis or "no server 6.2 or newer", fix)
    if facts.runs_already:
        yield Finding(Verdict.FINE, "port", "`celerity up` runs here already")
    else:
        choose = "choose another with --port or CELERITY_PORT"
        yield _check(facts.port_problem is None, "port", facts.port_problem or "free", choose)
    enough = facts.disk_free_mib >= _DISK_MIB
    free = f"{facts.disk_free_mib:,} MiB free for {facts.state_dir}"
    yield _check(enough, "disk", free, "make room, or name another folder with CELERITY_STATE_DIR")


def _engine(facts: Machine) -> Iterator[Finding]:
    wanted = not facts.models or any(model.spec.engine == "vllm" for model in facts.models)
    if facts.vllm.version is None:
        verdict = Verdict.MISSING if wanted else Verdict.WORTH_KNOWING
        text = "not installed" if wanted else "not installed; only simulated models can be served"
        yield Finding(verdict, "vLLM", text, "run `make setup`")
        return
    build = "for CPUs" if facts.cpu_build else "for GPUs"
    text = f"{facts.vllm.version}, {build}" + (f", but: {facts.vllm.broken}" if facts.vllm.broken else "")
    yield _check(facts.vllm.broken is None, "vLLM", text, "run `make setup` again")
    torch = facts.torch.broken or facts.torch.version or "not installed"
    yield _check(facts.torch.version is not None and not facts.torch.broken, "torch", torch, "run `make setup` again")
    if facts.torchvision.broken:
        # Its import fails beside another build of torch, and then that of transformers does.
        fix = "pip uninstall torchvision torchaudio torchcodec (they are not needed)"
        yield Finding(Verdict.MISSING, "torchvision", facts.torchvision.broken, fix)


def _hardware(facts: Machine) -> Iterator[Finding]:
    if facts.gpu_problem:
        yield Finding(Verdict.WORTH_KNOWING, "GPU", facts.gpu_problem, "see what `nvidia-smi` says")
    yield from (_gpu(device) for device in facts.gpus)
    if facts.gpus and facts.cpu_build:
        yield Finding(Verdict.WORTH_KNOWING, "GPU", "the vLLM here is the one for CPUs", "run `make setup ENGINE=gpu`")
    if facts.driver:
        yield Finding(Verdict.FINE, "GPU", f"NVIDIA's driver {facts.driver}")
    if not facts.gpus and not facts.gpu_problem:
        text = "none that can be used; models run on the CPU"
        if facts.vllm.version is not None and not facts.cpu_build:
            yield Finding(Verdict.MISSING, "GPU", "none, but vLLM is built for one", "run `make setup ENGINE=cpu`")
        else:
            yield Finding(Verdict.FINE, "GPU", text)
    limit = "" if facts.cgroup_mib is None else f", of which this group may use {facts.cgroup_mib:,}"
    yield Finding(Verdict.FINE, "memory", f"{_free(facts.cpu)}{limit}")
    yield Finding(Verdict.FINE, "CPU", "has AMX" if facts.amx else "no AMX; bfloat16 is slow")


def _gpu(device: Device) -> Finding:
    named = f"{device.id} {device.name}".strip()
    if device.unknown:
        return Finding(Verdict.WORTH_KNOWING, "GPU", f"{named}: {device.unknown}", "nothing is placed there until then")
    others = [
        f"process {holder.pid}" + ("" if holder.mib is None else f" holds {holder.mib:,} MiB")
        for holder in device.foreign or ()
    ]
    return Finding(Verdict.FINE, "GPU", "; ".join([f"{named}, {_free(device)}", *others]))


def _free(device: Device) -> str:
    return f"{device.free_mib or 0:,} of {device.total_mib or 0:,} MiB free"


def _models(facts: Machine) -> Iterator[Finding]:
    if facts.models_problem is not None:
        yield Finding(Verdict.MISSING, "models", facts.models_problem, "correct the file; docs/models.md has every key")
        return
    yield Finding(Verdict.FINE, "models", f"{len(facts.models)} in {facts.models_file}")
    for model in facts.models:
        yield _model(model, facts)
    for folder, why in facts.skipped.items():
        yield Finding(Verdict.WORTH_KNOWING, f"  {folder.name}", f"not served: {why}", f"see {folder}")


def _model(model: ModelFacts, facts: Machine) -> Finding:
    subject = f"  {model.spec.id}"
    if model.problem is not None:
        verdict = Verdict.MISSING if model.spec.pinned else Verdict.WORTH_KNOWING
        return Finding(verdict, subject, model.problem, f"correct its entry in {facts.models_file}")
    if model.needs_mib is None:
        return Finding(Verdict.WORTH_KNOWING, subject, model.misfit or "what it needs is not known")
    text = f"needs about {model.needs_mib:,} MiB"
    if model.misfit and not facts.runs_already:
        fix = f"close other programs, choose a smaller model, or see `celerity doctor {model.spec.id}`"
        return Finding(Verdict.WORTH_KNOWING, subject, f"{text}; {model.misfit}", fix)
    return Finding(Verdict.FINE, subject, text)
