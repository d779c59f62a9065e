"""models.yaml that cannot be meant: refused, with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.document import MAX_BYTES
from workers.registry import Registry, RegistryError


def refusal(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "models.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RegistryError) as caught:
        Registry.load(file)
    return str(caught.value).replace(str(file), "models.yaml")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("pined: true", '3: models.m.pined: unknown key; did you mean "pinned"?'),
        ("zzz: 1", "3: models.m.zzz: unknown key; known keys: aliases, chat_template_kwargs,"),
        ('pinned: "no"', "3: models.m.pinned: true or false is expected"),
        ("pinned: no", "3: models.m.pinned: true or false is expected"),
        ("pinned: 1", "3: models.m.pinned: true or false is expected"),
        ("pinned: null", "3: models.m.pinned: may not be empty"),
        ("max_model_len: 12:30:45", "3: models.m.max_model_len: a whole number is expected"),
        ('max_model_len: "8192"', "3: models.m.max_model_len: a whole number is expected"),
        ("max_model_len: true", "3: models.m.max_model_len: a whole number is expected"),
        ("max_model_len: 0", "3: models.m.max_model_len: must be at least 1"),
        ("memory_mib: 1.5", "3: models.m.memory_mib: a whole number is expected"),
        ("idle_ttl_s: soon", "3: models.m.idle_ttl_s: a number is expected"),
        ("idle_ttl_s: 1e999", "3: models.m.idle_ttl_s: not a number we can use"),
        (f"memory_mib: {'9' * 5000}", "3: models.m.memory_mib: not a number we can use"),
        ("aliases: light", "3: models.m.aliases: a list is expected"),
        ("aliases: [ok, 5]", "3: models.m.aliases.1: text is expected"),
        ("aliases: [a*b]", "3: models.m.aliases.0: a name is 1 to 128"),
        ("aliases: [m]", '3: models.m.aliases.0: "m" is the id of a model already'),
        ("aliases: [a, a]", '3: models.m.aliases.1: the alias "a" is given twice'),
        ("devices: cuda:0", "3: models.m.devices: a list is expected"),
        ("devices: []", "3: models.m.devices: name one at least"),
        ("devices: [cuda:0, gpu]", "3: models.m.devices.1: a device is NODE/DEVICE or DEVICE"),
        ("engine: tgi", "3: models.m.engine: must be one of vllm, sim"),
        ("sim: {seats: 3}", "3: models.m.sim: only for `engine: sim`"),
        ("path: [x]", "3: models.m.path: text is expected"),
        ("path: ''", "3: models.m.path: must not be empty"),
        ("replicas: 2", "3: models.m.replicas: `name: value` pairs are expected"),
        ("replicas: {min: 3, max: 2}", "3: models.m.replicas.min: min (3) is larger than max (2)"),
        ("replicas: {mx: 2}", '3: models.m.replicas.mx: unknown key; did you mean "max"?'),
        ("replicas: {min: -1}", "3: models.m.replicas.min: must be at least 0"),
        ("queue: {max_depth: 0}", "3: models.m.queue.max_depth: must be at least 1"),
        ("engine_args: [--dtype, float16]", "3: models.m.engine_args: `name: value` pairs are expected"),
        ("engine_args: {max-model-len: 5}", "3: models.m.engine_args.max-model-len: not allowed here: write it one"),
        ("<<: {pinned: true}", "3: models.m.<<: unknown key"),
        (
            "tool_call_parser: hermse",
            '3: models.m.tool_call_parser: vLLM 0.32.0 has no such parser; did you mean "hermes"',
        ),
        (
            "reasoning_parser: zzz",
            "3: models.m.reasoning_parser: vLLM 0.32.0 has no such parser; it has cohere_command3,",
        ),
        ("tool_call_parser: [hermes]", "3: models.m.tool_call_parser: text is expected"),
    ],
)
def test_a_bad_entry_is_named_with_its_line(tmp_path: Path, entry: str, expected: str) -> None:
    path = "" if entry.startswith("path") else "\n    path: org/name"
    assert f"models.yaml:{expected}" in refusal(tmp_path, f"models:\n  m:\n    {entry}{path}\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1: `name: value` pairs are expected"),
        ("- a", "1: `name: value` pairs are expected"),
        ("aliases: {}", "1: models: missing"),
        ("models:\n", "1: models: may not be empty"),
        ("models: [m]", "1: models: `name: value` pairs are expected"),
        ("models: {}\nmodel: {}", '2: model: unknown key; did you mean "models"?'),
        ("models:\n  m: {engine: sim}\n  m: {engine: sim}", "3: models.m: given twice, first on line 2"),
        ("models:\n  m:\n    engine: sim\n    engine: sim", "4: models.m.engine: given twice, first on line 3"),
        ("models:\n  m:\n", "2: models.m: `name: value` pairs are expected"),
        ("models:\n  m: {}\n", "2: models.m.path: missing; the folder"),
        ("models:\n  '../x': {engine: sim}", "2: models.../x: a name is 1 to 128"),
        ("models:\n  a\\x06: {engine: sim}", "2: models.a\\x06: a name is"),
        ("models:\n  12: {engine: sim}", "2: models: a key must be text"),
        ("models:\n  ? [a]\n  : 1", "2: models: a key must be text"),
        ("models:\n\tm: {engine: sim}", "2: indented with a tab"),
        ("models: {m: {engine: sim}\n", "2: not valid YAML: "),
        ("models: {m: !!python/object:os.system {}}", "1: models.m: the tag 'tag:yaml.org,2002:python/object"),
        ("models: {m: !!binary aGk=}", "1: models.m: the tag"),
        ("models: {m: !!int x}", "1: models.m: not a number"),
        ("models: {}\n---\nmodels: {}", "2: not valid YAML: "),
        ("a: &x [1]\nmodels: *x", "2: YAML aliases (*x) are not allowed"),
        ("models: " + "[" * 100_000, "1: more than 50000 values or 20 levels"),
        ("models: [" + "1," * 60_000 + "]", "1: more than 50000 values or 20 levels"),
        ("models: {}\n\x07", "2: not valid YAML: a character that may not stand here (#x0007)"),
        (b"models: {}\n\xff", "2: not UTF-8 text"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert f"models.yaml:{expected}" in refusal(tmp_path, text)


def test_an_alias_bomb_is_refused_before_it_is_built(tmp_path: Path) -> None:
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "YAML aliases (*a0) are not allowed" in refusal(tmp_path, "\n".join(["a0: &a0 [x]", *levels]))


@pytest.mark.parametrize(
    ("rollouts", "expected"),
    [
        ("{gpt: {desired: nope}}", 'aliases.gpt.desired: there is no model "nope"'),
        ("{gpt: {desired: m, previous: nope}}", 'aliases.gpt.previous: there is no model "nope"'),
        ("{gpt: {previous: m}}", "aliases.gpt.desired: missing"),
        ("{gpt: m}", "aliases.gpt: `name: value` pairs are expected"),
        ("{m: {desired: m}}", 'aliases.m: "m" is the id of a model already'),
        ("{light: {desired: m}}", 'aliases.light: the alias "light" is given twice; "m" has it already'),
    ],
)
def test_a_bad_rollout_is_refused(tmp_path: Path, rollouts: str, expected: str) -> None:
    text = f"models: {{m: {{engine: sim, aliases: [light]}}}}\naliases: {rollouts}"
    assert f"models.yaml:2: {expected}" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        ("{gpu: {slots: 1}}", "devices.gpu: a device is NODE/DEVICE or DEVICE"),
        ("{cuda:0: {slots: 0}}", "devices.cuda:0.slots: must be at least 1"),
        ("{cuda:0: {exclusiv: true}}", 'devices.cuda:0.exclusiv: unknown key; did you mean "exclusive"?'),
        ("{cuda:0: {bound_to: 'a b'}}", "devices.cuda:0.bound_to: a name is 1 to 128"),
        ("{cuda:0: heavy}", "devices.cuda:0: `name: value` pairs are expected"),
        ("[cuda:0]", "devices: `name: value` pairs are expected"),
    ],
)
def test_a_bad_device_is_refused(tmp_path: Path, devices: str, expected: str) -> None:
    assert f"models.yaml:2: {expected}" in refusal(tmp_path, f"models: {{m: {{engine: sim}}}}\ndevices: {devices}")


def test_two_models_cannot_share_an_alias(tmp_path: Path) -> None:
    text = "models:\n  a: {engine: sim, aliases: [x]}\n  b: {engine: sim, aliases: [x]}"
    assert refusal(tmp_path, text) == (
        'models.yaml:3: models.b.aliases.0: the alias "x" is given twice; "a" has it already'
    )


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "models:\n  a: {engine: sim, pinned: 1}\n  b: {engine: x}\n"
    assert [line.split(":")[1] for line in refusal(tmp_path, text).splitlines()] == ["2", "3"]


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path) -> None:
    assert "larger than 1,000,000 bytes" in refusal(tmp_path, b"#" * (MAX_BYTES + 1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none\.yaml: cannot be read: No such file"):
        Registry.load(tmp_path / "none.yaml")
