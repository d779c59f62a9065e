"""Folders of the models directory that become models, beside the entries of models.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.registry import ModelSpec, Registry, RegistryError

SMALL = CONFIGS["Qwen2.5-0.5B-Instruct"]
SIM = "models: {s: {engine: sim, aliases: [light]}}"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def load(models: Path, text: str = SIM) -> Registry:
    file = models.parent / "models.yaml"
    file.write_text(text)
    return Registry.load(file, models)


def test_a_folder_is_a_model_without_an_entry(models: Path) -> None:
    folder = write_model(models / "Qwen" / "small", SMALL)
    registry = load(models)
    assert registry.models["Qwen/small"] == ModelSpec(id="Qwen/small", path=str(folder), tool_call_parser="hermes")
    assert registry.folders["Qwen/small"].config.architecture == "Qwen2ForCausalLM"
    assert not registry.problems


def test_an_entry_takes_the_folder_that_it_names(models: Path) -> None:
    folder = write_model(models / "small", SMALL)
    registry = load(models, "models: {mine: {path: small, pinned: true, max_model_len: 512}}")
    assert list(registry.models) == ["mine"]
    assert registry.models["mine"].path == str(folder)
    assert registry.folders["mine"].path == folder


@pytest.mark.parametrize("layout", ["plain", "hub"])
def test_an_entry_takes_the_repository_that_it_names_where_it_is_here(models: Path, layout: str) -> None:
    inner = "Qwen/small" if layout == "plain" else "models--Qwen--small/snapshots/0a1b"
    folder = write_model(models / inner, SMALL)
    registry = load(models, "models: {mine: {path: Qwen/small}}")
    assert list(registry.models) == ["mine"]
    assert registry.models["mine"].path == str(folder)


def test_a_repository_is_a_model_by_its_name_on_the_hub(models: Path) -> None:
    repository = models / "models--Qwen--small"
    folder = write_model(repository / "snapshots" / "0a1b", SMALL)
    (repository / "blobs").mkdir()
    (folder / "model.safetensors").rename(repository / "blobs" / "ffff")
    (folder / "model.safetensors").symlink_to("../../blobs/ffff")
    registry = load(models)
    assert registry.models["Qwen/small"].path == str(folder)
    assert not registry.skipped


@pytest.mark.parametrize("text", ["models: {small: {engine: sim}}", "models: {s: {engine: sim, aliases: [small]}}"])
def test_a_name_of_models_yaml_is_not_taken_over_by_a_folder(models: Path, text: str) -> None:
    folder = write_model(models / "small", SMALL)
    registry = load(models, text)
    spec = registry.resolve("small")
    assert spec is not None
    assert spec.engine == "sim"
    assert "models.yaml calls another model small" in registry.skipped[folder]


def test_a_folder_that_cannot_be_served_is_skipped_with_the_reason(models: Path) -> None:
    linked = write_model(models / "linked", SMALL)
    (linked / "tokenizer.json").symlink_to("/etc/passwd")
    unsafe = write_model(models / "unsafe", SMALL)
    (unsafe / "model.safetensors").rename(unsafe / "pytorch_model.bin")
    foreign = write_model(models / "foreign", SMALL | {"auto_map": {}})
    partial = write_model(models / "partial", SMALL, shards=2)
    (partial / "model-00002-of-00002.safetensors").unlink()
    registry = load(models)
    assert list(registry.models) == ["s"]
    assert "tokenizer.json is a symlink that leads out of" in registry.skipped[linked]
    assert "not safetensors but pytorch_model.bin" in registry.skipped[unsafe]
    assert "has an auto_map" in registry.skipped[foreign]
    assert "model-00002-of-00002.safetensors is missing" in registry.skipped[partial]


def test_what_a_folder_needs_an_entry_for_is_said_there(models: Path) -> None:
    folder = write_model(models / "foreign", SMALL | {"auto_map": {}})
    entry = "models: {f: {path: foreign, engine_args: {trust_remote_code: %s}}}"
    assert "has an auto_map" in load(models, entry % "false").problems["f"]
    registry = load(models, entry % "true")
    assert (registry.problems, registry.folders["f"].path) == ({}, folder)


def test_a_length_that_the_model_was_not_made_for_is_a_problem(models: Path) -> None:
    write_model(models / "small", SMALL)
    registry = load(models, "models: {m: {path: small, max_model_len: 100000}}")
    assert "the model was made for 32,768 tokens" in registry.problems["m"]


def test_an_alias_cannot_lead_to_a_folder_without_an_entry(models: Path) -> None:
    write_model(models / "small", SMALL)
    with pytest.raises(RegistryError, match=r'aliases\.a\.desired: there is no model "small" in this file'):
        load(models, "models: {}\naliases: {a: {desired: small}}")


def test_a_models_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(SIM)
    registry = Registry.load(tmp_path / "models.yaml", tmp_path / "later")
    assert (list(registry.models), registry.skipped) == (["s"], {})


def test_a_symlink_to_a_folder_of_the_directory_is_a_second_name_for_it(models: Path) -> None:
    folder = write_model(models / "a", SMALL)
    (models / "b").symlink_to(folder)
    assert {*load(models).models} == {"s", "a", "b"}
