"""models.yaml → specs: what a good file becomes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.devices import DeviceKind
from workers.engine import ENGINES
from workers.estimate.needs import estimate
from workers.model_schema import ENGINES as KNOWN_ENGINES
from workers.registry import DEMO_PATH, ModelSpec, QueueSpec, Registry, Rollout, SimSpec

ROOT = Path(__file__).parents[2]


def load(tmp_path: Path, text: str, models_dir: Path | None = None) -> Registry:
    file = tmp_path / "models.yaml"
    file.write_text(text, "utf-8")
    return Registry.load(file, models_dir)


def model_folder(folder: Path, model_type: str = "llama") -> Path:
    folder.mkdir(parents=True)
    config = {"model_type": model_type, "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_every_key_reaches_the_spec(tmp_path: Path) -> None:
    registry = load(
        tmp_path,
        """
models:
  big:
    path: org/name
    engine: vllm
    aliases: [heavy]
    pinned: true
    memory_mib: 10400
    max_model_len: 8192
    replicas: {min: 1, max: 2}
    idle_ttl_s: null
    exclusive: true
    engine_args: {quantization: awq, nested: {a: [1, 2.5, true, null]}}
    tool_call_parser: hermes
    reasoning_parser: qwen3
    chat_template_kwargs: {enable_thinking: false}
    queue: {max_depth: 7, max_wait_s: 9}
""",
    )
    assert registry.models["big"] == ModelSpec(
        id="big",
        path="org/name",
        aliases=("heavy",),
        pinned=True,
        memory_mib=10400,
        max_model_len=8192,
        replicas_min=1,
        replicas_max=2,
        idle_ttl_s=None,
        exclusive=True,
        engine_args={"quantization": "awq", "nested": {"a": [1, 2.5, True, None]}},
        tool_call_parser="hermes",
        reasoning_parser="qwen3",
        chat_template_kwargs={"enable_thinking": False},
        queue=QueueSpec(max_depth=7, max_wait_s=9.0),
    )


def test_what_is_left_out_has_the_default(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {sim-a: {engine: sim}}")
    assert registry.models["sim-a"] == ModelSpec(id="sim-a", engine="sim")


def test_a_simulated_model_has_its_numbers(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {s: {engine: sim, sim: {load_s: 1, ttft_ms: 5, itl_ms: 0.5, seats: 3}}}")
    assert registry.models["s"].sim == SimSpec(load_s=1.0, ttft_ms=5.0, itl_ms=0.5, seats=3)


def test_a_simulated_model_breaks_on_demand_only_where_its_entry_says_so(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {a: {engine: sim, sim: {faults: true}}, b: {engine: sim, sim: {}}}")
    assert [registry.models[name].sim.faults for name in "ab"] == [True, False]


def test_more_replicas_at_least_than_one_raise_the_default_limit(tmp_path: Path) -> None:
    spec = load(tmp_path, "models: {s: {engine: sim, replicas: {min: 3}}}").models["s"]
    assert (spec.replicas_min, spec.replicas_max) == (3, 3)


def test_a_model_is_found_by_id_and_by_alias(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {s: {engine: sim, aliases: [light]}}")
    assert registry.resolve("light") is registry.resolve("s") is registry.models["s"]
    assert registry.resolve("other") is None


def test_a_rollout_leads_to_its_desired_model(tmp_path: Path) -> None:
    registry = load(
        tmp_path, "models: {new: {engine: sim}, old: {engine: sim}}\naliases: {gpt: {desired: new, previous: old}}"
    )
    assert registry.aliases == {"gpt": "new"}
    assert registry.models["new"].aliases == ("gpt",)
    assert registry.rollouts == {"gpt": Rollout("new", "old")}


def test_what_serves_until_the_desired_model_is_ready_is_known_by_the_alias(tmp_path: Path) -> None:
    text = "models: {new: {engine: sim, aliases: [fixed]}, old: {engine: sim}}\n"
    rollouts = "{a: {desired: new, previous: old}, b: {desired: new}, c: {desired: old, previous: old}}"
    registry = load(tmp_path, f"{text}aliases: {rollouts}")
    new, old = registry.models["new"], registry.models["old"]
    assert [registry.targets(name) for name in ("a", "b", "c")] == [(new, old), (new, None), (old, None)]
    assert registry.targets("new") == registry.targets("fixed") == (new, None)
    assert registry.targets("other") is None


def test_one_model_may_be_the_target_of_several_aliases(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {m: {engine: sim, aliases: [x]}}\naliases: {y: {desired: m}, z: {desired: m}}")
    assert registry.models["m"].aliases == ("x", "y", "z")
    assert [registry.resolve(name) for name in "xyz"] == [registry.models["m"]] * 3


def test_words_that_yaml_1_1_would_turn_into_something_else_stay_text(tmp_path: Path) -> None:
    spec = load(tmp_path, "models: {s: {engine: sim, engine_args: {a: no, b: 12:30:45, c: 0o7, d: 2001-01-01}}}")
    assert spec.models["s"].engine_args == {"a": "no", "b": "12:30:45", "c": "0o7", "d": "2001-01-01"}


@pytest.mark.parametrize("where", ["models_dir", "beside"])
def test_a_relative_folder_is_found(tmp_path: Path, where: str) -> None:
    models_dir = tmp_path / "weights"
    folder = model_folder((models_dir if where == "models_dir" else tmp_path) / "org" / "name")
    spec = load(tmp_path, "models: {m: {path: org/name}}", models_dir).models["m"]
    assert spec.path == str(folder)


def test_the_models_folder_goes_before_the_folder_of_the_file(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    folder = model_folder(tmp_path / "weights" / "m")
    assert load(tmp_path, "models: {x: {path: m}}", tmp_path / "weights").models["x"].path == str(folder)


def test_owner_and_name_without_a_folder_is_a_repository(tmp_path: Path) -> None:
    assert load(tmp_path, "models: {x: {path: Qwen/Qwen3-4B-AWQ}}").models["x"].path == "Qwen/Qwen3-4B-AWQ"


def test_a_folder_on_another_machine_is_no_error_here(tmp_path: Path) -> None:
    registry = load(tmp_path, "models: {x: {path: /nowhere/x}, y: {path: just-a-name}}")
    assert registry.models["x"].path == "/nowhere/x"
    assert registry.models["y"].path == str(tmp_path / "just-a-name")


@pytest.mark.parametrize(
    ("model_type", "parser"),
    [("qwen2", "hermes"), ("qwen3_moe", "hermes"), ("llama", "llama3_json"), ("mistral", "mistral"), ("opt", None)],
)
def test_the_tool_parser_follows_the_model_type(tmp_path: Path, model_type: str, parser: str | None) -> None:
    folder = model_folder(tmp_path / "m", model_type)
    assert load(tmp_path, f"models: {{x: {{path: {folder}}}}}").models["x"].tool_call_parser == parser


def test_a_tool_parser_that_is_named_wins(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "llama")
    spec = load(tmp_path, f"models: {{x: {{path: {folder}, tool_call_parser: hermes}}}}").models["x"]
    assert spec.tool_call_parser == "hermes"


def test_a_parser_may_come_with_a_plugin(tmp_path: Path) -> None:
    entry = "{path: a/b, tool_call_parser: mine, engine_args: {tool_parser_plugin: /plugins/mine.py}}"
    assert load(tmp_path, f"models: {{m: {entry}}}").models["m"].tool_call_parser == "mine"


def test_null_means_that_a_model_needs_no_parser(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "qwen3")
    entry = f"{{path: {folder}, tool_call_parser: null, reasoning_parser: null}}"
    spec = load(tmp_path, f"models: {{x: {entry}}}").models["x"]
    assert (spec.tool_call_parser, spec.reasoning_parser) == (None, None)


def test_a_model_that_can_think_or_not_does_not_unless_it_is_asked_to(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", "qwen3")
    registry = load(
        tmp_path,
        f"models: {{x: {{path: {folder}}}, y: {{path: {folder}, chat_template_kwargs: {{enable_thinking: true}}}}}}",
    )
    assert registry.models["x"].reasoning_parser == "qwen3"
    assert registry.models["x"].chat_template_kwargs == {"enable_thinking": False}
    assert registry.models["y"].chat_template_kwargs == {"enable_thinking": True}


def test_a_folder_that_cannot_be_used_is_no_error_of_the_file(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m")
    (folder / "config.json").write_text("{")
    registry = load(tmp_path, f"models: {{x: {{path: {folder}}}}}")
    assert registry.models["x"].tool_call_parser is None
    assert registry.problems == {"x": f"{folder}: config.json is not valid JSON"}
    assert "x" not in registry.folders


def test_the_demo_model_is_found_wherever_the_file_stands(tmp_path: Path) -> None:
    spec = load(tmp_path, f"models: {{demo: {{path: {DEMO_PATH}}}}}").models["demo"]
    assert spec.path == str(ROOT / "deploy" / "demo_model" / "model")


def test_the_file_in_the_repository_serves_the_demo_model() -> None:
    registry = Registry.load(ROOT / "models.yaml")
    assert list(registry.models) == ["demo"]
    demo = registry.resolve("light")
    assert demo is not None
    assert demo.pinned
    assert demo.tool_call_parser == "hermes"


def examples(tmp_path: Path, models_dir: Path | None = None) -> Registry:
    """Load the repository's file with all that is commented out, and without the alias that is used twice then."""
    lines = (ROOT / "models.yaml").read_text().replace("    aliases: [light]   ", "    aliases: []   ").splitlines()
    uncommented = [line[1:] if line.startswith(("#  ", "#aliases", "#devices")) else line for line in lines]
    return load(tmp_path, "\n".join(uncommented), models_dir)


def test_the_examples_in_the_repository_s_file_are_valid(tmp_path: Path) -> None:
    registry = examples(tmp_path)
    references = {name.lower() for name in CONFIGS}
    assert set(registry.models) == {"demo", "qwen2.5-7b-instruct", "sim-a"} | references
    assert registry.aliases["assistant"] == "demo"
    assert [registry.models[registry.aliases[name]].pinned for name in ("heavy", "light")] == [True, True]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_memory_of_the_examples_is_what_is_computed_for_them(tmp_path: Path, name: str) -> None:
    models_dir = tmp_path / "models"
    path = next(spec.path for spec in examples(tmp_path).models.values() if spec.id == name.lower())
    write_model(models_dir / (path or "").removeprefix(f"{tmp_path}/"), CONFIGS[name])
    registry = examples(tmp_path, models_dir)
    spec, folder = registry.models[name.lower()], registry.folders[name.lower()]
    kind = DeviceKind.CPU if "0.5B" in name else DeviceKind.CUDA
    need = estimate(replace(spec, memory_mib=None), folder, kind)
    assert spec.memory_mib is not None
    assert need.mib <= spec.memory_mib < need.mib + 100
    assert estimate(spec, folder, kind).problem is None
    assert not registry.problems


def test_the_engines_that_may_be_named_are_those_we_have() -> None:
    assert set(KNOWN_ENGINES) == set(ENGINES)
