"""A model's folder, which is somebody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.workers.reference_models import CONFIGS, write_model
from workers.model_folder import FolderReader, ModelFolder, ModelFolderError, read, signature
from workers.parsers import Parsers

SMALL = CONFIGS["Qwen2.5-0.5B-Instruct"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "small", SMALL)


def load(folder: Path) -> ModelFolder:
    return read(folder, folder.parent)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        load(folder)
    return str(caught.value)


def test_a_folder_says_what_the_model_is(folder: Path) -> None:
    tokenizer = {"chat_template": "{% if tools %}<tool_call>{% endif %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    generation = {"temperature": 0.7, "top_k": 20, "do_sample": True, "top_p": "high", "min_p": False}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "pytorch_model.bin").write_bytes(b"")
    found = load(folder)
    assert (found.config.architecture, found.config.context) == ("Qwen2ForCausalLM", 32768)
    assert found.weights is not None
    assert found.weights.total_bytes == 988_065_536
    assert found.other_weights == ("pytorch_model.bin",)
    assert found.parsers == Parsers("hermes")
    assert found.sampling == {"temperature": 0.7, "top_k": 20}


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": "{{ tools }}[TOOL_CALLS]"},
        {"tokenizer_config.json": json.dumps({"chat_template": "{{ tools }}[TOOL_CALLS]"})},
        {
            "tokenizer_config.json": json.dumps(
                {"chat_template": [{"name": "default"}, {"name": "tool_use", "template": "{{ tools }}[TOOL_CALLS]"}, 5]}
            )
        },
    ],
)
def test_the_chat_template_is_found_wherever_it_stands(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text)
    assert load(folder).parsers.tool_call_parser == "mistral"


def test_the_weights_may_still_be_to_come(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert load(folder).weights is None


def test_the_fingerprint_is_that_of_the_model_and_not_of_its_place(folder: Path, tmp_path: Path) -> None:
    copy = write_model(tmp_path / "copy", SMALL)
    other = write_model(tmp_path / "other", SMALL | {"num_hidden_layers": 23})
    assert load(folder).fingerprint == load(copy).fingerprint != load(other).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("config.json", b"{", "config.json is not valid JSON"),
        ("config.json", b"[]", "config.json holds no JSON object"),
        ("config.json", b"{}", "config.json names no architecture"),
        ("config.json", b"\xff", "config.json is not UTF-8"),
        ("config.json", '{"a": 1}'.encode("utf-16"), "config.json is not UTF-8"),
        ("config.json", b"[" * 200_000, "config.json is not valid JSON"),
        ("config.json", b" " * 8_000_001, "config.json is larger than 8,000,000 bytes"),
        ("tokenizer_config.json", b"{", "tokenizer_config.json is not valid JSON"),
        ("generation_config.json", b"nul", "generation_config.json is not valid JSON"),
        ("model.safetensors", b"PK\x03\x04", "model.safetensors is damaged"),
    ],
)
def test_a_file_that_cannot_be_meant_is_named(folder: Path, name: str, content: bytes, why: str) -> None:
    (folder / name).write_bytes(content)
    assert why in refusal(folder)


def test_a_folder_without_a_config_is_not_a_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)
    assert "cannot be read: No such file" in refusal(folder / "none")


def test_a_pipe_in_place_of_the_config_is_not_waited_for(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "not a plain file" in refusal(folder)


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "../../outside", "/nowhere"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "notes.txt"])
def test_a_symlink_that_leads_out_is_refused_whatever_it_is_called(folder: Path, name: str, target: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    assert f"{name} is a symlink that leads out of" in refusal(folder)


def test_a_symlink_within_the_models_directory_is_followed(folder: Path) -> None:
    blob = folder.parent / "blobs" / "0a1b"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to("../blobs/0a1b")
    assert load(folder).weights is not None
    with pytest.raises(ModelFolderError, match="leads out of"):
        read(folder, folder)


def test_a_folder_that_lies_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "small").symlink_to(folder)
    assert "it is a symlink that leads out of" in refusal(root / "small")


def test_a_folder_is_read_again_only_when_something_in_it_has_changed(folder: Path) -> None:
    reader = FolderReader()
    first = reader.read(folder, folder.parent)
    assert reader.read(folder, folder.parent) is first
    assert reader.seen(folder) == signature(folder)
    (folder / "chat_template.jinja").write_text("{{ tools }}[TOOL_CALLS]")
    assert reader.read(folder, folder.parent).parsers.tool_call_parser == "mistral"
    (folder / "config.json").write_text("{")
    for _ in range(2):
        with pytest.raises(ModelFolderError, match="not valid JSON"):
            reader.read(folder, folder.parent)
    reader.forget_all_but([])
    assert reader.seen(folder) == ()


@pytest.mark.parametrize("change", ["rewritten", "replaced", "link"])
def test_a_change_shows_even_when_size_and_time_are_kept(folder: Path, change: str) -> None:
    config = folder / "config.json"
    if change == "link":
        config.rename(folder.parent / "first.json")
        config.symlink_to("../first.json")
    before, stat, text = signature(folder), config.stat(), config.read_text()
    other = text.replace("32768", "16384")
    if change == "link":
        (folder.parent / "second.json").write_text(other)
        config.unlink()
        config.symlink_to("../second.json")
    elif change == "replaced":
        (folder.parent / "new.json").write_text(other)
        (folder.parent / "new.json").replace(config)
    else:
        config.write_text(other)
    os.utime(config, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert signature(folder) != before


def test_a_link_to_nothing_and_a_folder_that_is_not_there_have_a_signature(folder: Path) -> None:
    (folder / "x").symlink_to("nowhere")
    assert ("x", 0, 0, 0, 0) in signature(folder)
    assert signature(folder / "none") == ()


def raw(**changed: Any) -> str:
    return json.dumps(SMALL | changed)


@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 10**25, 1.5, True, [[]], float("nan")])
@pytest.mark.parametrize(
    "key", [*SMALL, "rope_scaling", "quantization_config", "layer_types", "text_config", "auto_map"]
)
def test_no_value_of_a_config_brings_the_reader_down(folder: Path, key: str, value: Any) -> None:
    (folder / "config.json").write_text(raw(**{key: value}))
    try:
        load(folder)
    except ModelFolderError as error:
        assert "config.json" in str(error)
