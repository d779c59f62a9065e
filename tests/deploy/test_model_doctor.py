"""`celerity doctor MODEL`: what a model is, what it takes, and where it would fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from deploy import fitting, model_doctor
from deploy.cli import main
from deploy.fitting import Here
from deploy.model_doctor import Report
from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import Device, DeviceKind, unknown
from workers.estimate.measured import Measured
from workers.layout import Layout
from workers.model_folder import ModelFolder, read
from workers.registry import ModelSpec

A40 = Device(id="cuda:0", kind=DeviceKind.CUDA, total_mib=46_068, free_mib=45_000, name="NVIDIA A40")


@pytest.fixture
def qwen3(tmp_path: Path) -> ModelFolder:
    folder = write_model(tmp_path / "Qwen3-8B-AWQ", CONFIGS["Qwen3-8B-AWQ"])
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    return read(folder, folder)


def spec(folder: ModelFolder, **fields: Any) -> ModelSpec:
    made: dict[str, Any] = {"id": "qwen3", "path": str(folder.path), "max_model_len": 8192, "aliases": ("light",)}
    return ModelSpec(**made | fields)


def shown(report: Report) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(model_doctor.drawn(report))
        return console.export_text()


def test_every_term_and_every_choice_is_shown(qwen3: ModelFolder) -> None:
    chosen = spec(
        qwen3,
        tool_call_parser=qwen3.parsers.tool_call_parser,
        reasoning_parser=qwen3.parsers.reasoning_parser,
        chat_template_kwargs=qwen3.parsers.chat_template_kwargs,
    )
    report = model_doctor.examine(chosen, qwen3, None, Here(devices=[A40]))
    assert report.can_run
    text = shown(report)
    for part in (
        "qwen3  also called light",
        "Qwen3ForCausalLM (qwen3)",
        "float16, quantized with awq to 4 bits",
        "40,960 tokens",
        "8,192 tokens",
        "hermes",
        "qwen3 (off unless a request asks for them)",
        "temperature 0.6, top_k 20",
        "memory of one replica, estimated",
        "6.10 GB in 1 safetensors",
        "activations",
        "CUDA graphs",
        "runtime",
        "4.0 sequences of 8,192 tokens",
        "in all",
        "would do, for one sequence of full length",
        "✓ cuda:0 NVIDIA A40: 12,7",
        "gpu_memory_utilization 0.2",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("device", "why"),
    [
        (replace(A40, free_mib=2_000), "2,000 of 46,068 MiB are free; 9,"),
        (replace(A40, total_mib=6_000, free_mib=6_000), "it has 6,000 MiB in all; 9,"),
        (unknown("cuda:0", DeviceKind.CUDA, "the driver does not answer"), "the driver does not answer"),
        (replace(A40, free_mib=None), "its memory is not known"),
    ],
)
def test_a_device_that_does_not_do_says_why(qwen3: ModelFolder, device: Device, why: str) -> None:
    report = model_doctor.examine(spec(qwen3), qwen3, None, Here(devices=[device]))
    assert not report.can_run
    assert why in report.places[0].text
    assert model_doctor.examine(spec(qwen3), qwen3, None, Here(devices=[device, replace(A40, id="cuda:1")])).can_run


def test_a_device_with_little_room_takes_a_smaller_cache(qwen3: ModelFolder) -> None:
    [place] = fitting.places(spec(qwen3), qwen3, Here(devices=[replace(A40, free_mib=10_000)]))
    assert place.fits
    assert "10,000 of 10,000 MiB free, with a smaller KV cache than wanted" in place.text


def test_a_model_for_two_devices_needs_two(qwen3: ModelFolder) -> None:
    chosen = spec(qwen3, engine_args={"tensor_parallel_size": 2})
    [place] = fitting.places(chosen, qwen3, Here(devices=[A40]))
    assert "2 such devices are needed at once, and 1 have" in place.text
    assert all(place.fits for place in fitting.places(chosen, qwen3, Here(devices=[A40, replace(A40, id="cuda:1")])))
    report = model_doctor.examine(chosen, qwen3, None, Here(devices=[A40, replace(A40, id="cuda:1")]))
    assert "on each of 2 devices" in shown(report)


def test_a_declared_size_that_cannot_work_is_told(qwen3: ModelFolder) -> None:
    report = model_doctor.examine(spec(qwen3, memory_mib=6000), qwen3, None, Here(devices=[A40]))
    assert not report.can_run
    assert "are left for the KV cache" in report.places[0].text


def test_a_problem_of_the_folder_is_told_and_decides(qwen3: ModelFolder) -> None:
    report = model_doctor.examine(spec(qwen3), qwen3, "it has an auto_map", Here(devices=[A40]))
    assert not report.can_run
    assert "✗ it has an auto_map" in shown(report)


def test_a_model_that_is_not_here_needs_a_declared_size(qwen3: ModelFolder) -> None:
    report = model_doctor.examine(spec(qwen3, path="Qwen/Qwen3-8B-AWQ"), None, None, Here(devices=[A40]))
    assert not report.can_run
    assert "set its memory_mib" in shown(report)
    assert model_doctor.examine(spec(qwen3, memory_mib=9000), None, None, Here(devices=[A40])).can_run


def test_what_was_measured_is_shown_beside_what_was_estimated(qwen3: ModelFolder) -> None:
    first = model_doctor.examine(spec(qwen3), qwen3, None, Here(devices=[A40])).need
    assert first is not None
    seen = Measured(model="qwen3", kind=A40.kind, made_of=first.made_of, other_mib=7777, load_s=12.34)
    model = replace(spec(qwen3), id="qwen3")
    report = model_doctor.examine(model, qwen3, None, Here(devices=[A40], measured={A40.kind: seen}))
    text = " ".join(shown(report).split())
    estimated = sum(term.mib for term in first.terms if term.name != "KV cache")
    assert "memory of one replica, measured" in text
    assert f"measured 7,777 MiB all but the KV cache, instead of the {estimated:,} MiB above" in text
    assert "loads in 12.3 s on cuda, as measured" in text
    assert f"in all {7777 + (first.kv_mib or 0):,} MiB" in text


def test_where_models_yaml_keeps_a_model_away_it_does_not_fit(qwen3: ModelFolder) -> None:
    def text(layout: Layout, **fields: Any) -> str:
        here = Here(devices=[A40], node="box", layout=layout)
        return fitting.places(spec(qwen3, **fields), qwen3, here)[0].text

    kept = Layout.of_entries({"box/cuda:0": {"bound_to": "heavy"}})
    assert "keeps it for heavy" in text(kept)
    assert "MiB free" in text(kept, aliases=("heavy",))
    assert "the model's `devices:` are cuda:7" in text(Layout(), devices=("cuda:7",))
    assert "MiB free" in text(Layout(), devices=("box/*",))


def doctor(tmp_path: Path, name: str, models: str) -> tuple[int, str]:
    (tmp_path / "models.yaml").write_text(models)
    env = {"CELERITY_MODELS_DIR": str(tmp_path / "models"), "CELERITY_STATE_DIR": str(tmp_path / "state")}
    result = CliRunner().invoke(main, ["doctor", name, "--models", str(tmp_path / "models.yaml")], env=env)
    return result.exit_code, " ".join(result.output.split())


def test_the_exit_code_says_whether_it_could_run(tmp_path: Path) -> None:
    small, large = "{engine: sim, aliases: [light], sim: {memory_mib: 1}}", "{engine: sim, sim: {memory_mib: 99999999}}"
    sims = f"models: {{s: {small}, l: {large}}}"
    code, text = doctor(tmp_path, "light", sims)
    assert (code, "simulated" in text) == (0, True)
    code, text = doctor(tmp_path, "l", sims)
    assert (code, "are needed at the least" in text) == (1, True)


def test_a_name_that_leads_nowhere_is_told_from_a_folder_that_is_no_model(tmp_path: Path) -> None:
    code, text = doctor(tmp_path, "other", "models: {s: {engine: sim}}")
    assert (code, "there is no model 'other'" in text, "there are: s" in text) == (1, True, True)
    folder = write_model(tmp_path / "models" / "org" / "other", CONFIGS["Qwen3-4B-AWQ"])
    (folder / "model.safetensors").rename(folder / "model.pt")
    code, text = doctor(tmp_path, "org/other", "models: {s: {engine: sim}}")
    assert (code, "is no model: its weights are not safetensors but model.pt" in text) == (1, True)
