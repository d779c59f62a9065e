"""What the doctor makes of a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy import doctor, machine
from deploy.doctor import Verdict
from deploy.fitting import Here
from deploy.machine import Library, Machine, ModelFacts
from tasks.settings import Settings
from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import Device, DeviceKind, Holder, unknown
from workers.registry import ModelSpec, Registry

DEMO = ModelFacts(spec=ModelSpec(id="demo", path="/m", pinned=True), problem=None, needs_mib=1500)
H200 = Device(
    id="cuda:0",
    kind=DeviceKind.CUDA,
    total_mib=143771,
    free_mib=100,
    name="H200",
    foreign=(Holder(7, 40), Holder(8, None)),
)
HEALTHY = Machine(
    python=(3, 11),
    system="Linux x86_64",
    redis="redis-server 7.0.15",
    redis_given=False,
    vllm=Library(version="0.32.0"),
    torch=Library(version="2.13.0+cpu"),
    torchvision=Library(version=None),
    cpu_build=True,
    gpus=(),
    gpu_problem="",
    driver="",
    amx=True,
    cpu=Device(id="cpu", kind=DeviceKind.CPU, total_mib=16000, free_mib=9000),
    cgroup_mib=None,
    disk_free_mib=50_000,
    state_dir=Path("/state"),
    runs_already=False,
    port_problem=None,
    models_file=Path("models.yaml"),
    models_problem=None,
    models=(DEMO,),
)


def test_a_healthy_machine_has_nothing_to_fix() -> None:
    assert {finding.verdict for finding in doctor.examine(HEALTHY)} == {Verdict.FINE}


@pytest.mark.parametrize(
    ("change", "subject", "fix"),
    [
        ({"python": (3, 10)}, "Python", "3.11"),
        ({"redis": None}, "Redis", "make setup"),
        ({"redis": None, "redis_given": True}, "Redis", "CELERITY_REDIS_URL"),
        ({"port_problem": "port 8000 is taken"}, "port", "CELERITY_PORT"),
        ({"disk_free_mib": 10}, "disk", "CELERITY_STATE_DIR"),
        ({"vllm": Library(version=None)}, "vLLM", "make setup"),
        ({"vllm": Library(version="0.32.0", broken="ImportError: x")}, "vLLM", "make setup"),
        ({"torch": Library(version=None)}, "torch", "make setup"),
        (
            {"torchvision": Library(version="1", broken="operator torchvision::nms does not exist")},
            "torchvision",
            "pip uninstall torchvision torchaudio torchcodec",
        ),
        ({"cpu_build": False}, "GPU", "ENGINE=cpu"),
        ({"models_problem": "models.yaml:3: x"}, "models", "docs/models.md"),
        ({"models": (replace(DEMO, problem="no folder"),)}, "  demo", "models.yaml"),
    ],
)
def test_what_is_missing_is_told_with_its_cure(change: dict[str, Any], subject: str, fix: str) -> None:
    missing = [f for f in doctor.examine(replace(HEALTHY, **change)) if f.verdict is Verdict.MISSING]
    assert [finding.subject for finding in missing] == [subject]
    assert fix in missing[0].fix


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        ({"gpus": (H200,), "driver": "570"}, "GPU"),
        ({"gpus": (unknown("cuda:1", DeviceKind.CUDA, "it is lost"),), "cpu_build": False}, "GPU"),
        ({"gpu_problem": "the driver was exchanged", "cpu_build": False}, "GPU"),
        ({"models": (replace(DEMO, needs_mib=20_000, misfit="9,000 MiB are free"),)}, "  demo"),
        ({"models": (replace(DEMO, needs_mib=None, misfit="the weights are not here"),)}, "  demo"),
        ({"skipped": {Path("/models/odd"): "it holds no config.json"}}, "  odd"),
        ({"models": (replace(DEMO, spec=ModelSpec(id="x", path="/x"), problem="no folder"),)}, "  x"),
        (
            {
                "models": (ModelFacts(spec=ModelSpec(id="s", engine="sim"), problem=None, needs_mib=1),),
                "vllm": Library(version=None),
            },
            "vLLM",
        ),
    ],
)
def test_what_is_worth_knowing_is_no_failure(change: dict[str, Any], subject: str) -> None:
    findings = doctor.examine(replace(HEALTHY, **change))
    assert not [f for f in findings if f.verdict is Verdict.MISSING]
    assert [f.subject for f in findings if f.verdict is Verdict.WORTH_KNOWING] == [subject]


def test_a_port_is_no_trouble_while_we_run_ourselves() -> None:
    findings = doctor.examine(replace(HEALTHY, runs_already=True))
    assert next(f for f in findings if f.subject == "port").verdict is Verdict.FINE


def test_whoever_else_holds_a_gpu_s_memory_is_named() -> None:
    findings = doctor.examine(replace(HEALTHY, gpus=(H200,)))
    text = next(f for f in findings if f.subject == "GPU").text
    assert text == "cuda:0 H200, 100 of 143,771 MiB free; process 7 holds 40 MiB; process 8"


def test_every_fix_stands_under_what_it_cures() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(doctor.table(doctor.examine(replace(HEALTHY, redis=None))))
        lines = console.export_text().splitlines()
    at = next(number for number, line in enumerate(lines) if "Redis" in line)
    assert "✗" in lines[at]
    assert "→ run `make setup`" in lines[at + 1]


def test_what_a_model_needs_is_estimated_for_the_devices_there_are(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "small", CONFIGS["Qwen2.5-0.5B-Instruct"])
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        f"  here: {{path: {folder}, max_model_len: 2048}}\n"
        f"  large: {{path: {folder}, memory_mib: 9001}}\n"
        "  away: {path: org/name}\n"
        "  s: {engine: sim, sim: {memory_mib: 3}}\n"
    )
    registry = Registry.load(tmp_path / "models.yaml")
    facts = {
        id_: machine.model_facts(spec, registry, Here(devices=[HEALTHY.cpu])) for id_, spec in registry.models.items()
    }
    assert facts["here"].needs_mib is not None
    assert 2500 < facts["here"].needs_mib < 3500
    assert (facts["here"].misfit, facts["s"].needs_mib, facts["s"].misfit) == ("", 3, "")
    assert facts["large"].needs_mib == 9001
    assert "9,000 of 16,000 MiB are free; 9,001 are needed" in facts["large"].misfit
    assert facts["away"].needs_mib is None
    assert "not on this machine" in facts["away"].misfit


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {s: {engine: sim, pinned: true}}")
    settings = Settings.from_env(
        {"CELERITY_STATE_DIR": str(tmp_path / "s"), "CELERITY_MODELS": str(tmp_path / "models.yaml")}
    )
    facts = machine.gather(settings, check_imports=False)
    assert [model.spec.id for model in facts.models] == ["s"]
    assert facts.redis is not None
    assert facts.cpu.total_mib
    assert facts.disk_free_mib > 0
    broken = machine.gather(replace(settings, models=tmp_path / "none"), check_imports=False)
    assert broken.models_problem is not None


def test_a_library_that_cannot_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brokenlib.py").write_text("raise ImportError('bad build')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine.library("brokenlib") == Library(version="?", broken="ImportError: bad build")
    assert machine.library("no_such_library") == Library(version=None)
    assert machine.library("click", "click").broken is None
