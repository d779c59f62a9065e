"""The size of a model's weights, from files that are somebody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.workers.reference_models import write_safetensors
from workers.weights import Weights, WeightsError, measure


def raw(path: Path, header: Any, data: int, *, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data))


def tensor(start: int, end: int, **changed: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]} | changed


def refusal(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        measure(folder)
    return str(caught.value)


def test_the_bytes_of_each_type_are_added_up(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F16", [2, 3]), "y": ("I32", [4]), "z": ("F16", [1])})
    write_safetensors(tmp_path / "b.safetensors", {"w": ("F16", [0, 9])})
    assert measure(tmp_path) == Weights(("a.safetensors", "b.safetensors"), {"F16": 14, "I32": 16})


def test_a_hundred_gigabytes_are_measured_without_reading_them(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": ("BF16", [50_000, 1_000_000])})
    found = measure(tmp_path)
    assert found is not None
    assert found.total_bytes == 100_000_000_000


def test_a_folder_without_safetensors_has_no_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    assert measure(tmp_path) is None


def test_an_index_says_which_files_count(tmp_path: Path) -> None:
    for name in ("model-1", "model-2", "consolidated"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"x": ("F16", [8])})
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors", "z": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = measure(tmp_path)
    assert found is not None
    assert found.files == ("model-1.safetensors", "model-2.safetensors")


def test_a_second_copy_in_the_form_of_the_maker_does_not_count(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "consolidated.safetensors", {"x": ("F16", [8])})
    assert measure(tmp_path) == Weights(("consolidated.safetensors",), {"F16": 16})
    write_safetensors(tmp_path / "model.safetensors", {"x": ("F16", [8])})
    assert measure(tmp_path) == Weights(("model.safetensors",), {"F16": 16})


def test_a_file_that_is_still_to_come_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F16", [8])})
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not complete: b.safetensors is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": []},
        {"weight_map": {"x": 5}},
        {"weight_map": {"x": "../../etc/passwd"}},
        {"weight_map": {"x": "/etc/a.safetensors"}},
        {"weight_map": {"x": "pytorch_model.bin"}},
    ],
)
def test_an_odd_index_is_refused(tmp_path: Path, index: Any) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"x": ("F16", [8])})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"{", 0, "not valid JSON"),
        (b"[]", 0, "no JSON object"),
        (b"\xff\xfe", 0, "not UTF-8"),
        (b"[" * 100_000, 0, "not valid JSON"),
        (b'{"x": ' + b"9" * 5_000 + b"}", 0, "not valid JSON"),
        ({"x": tensor(0, 4)}, 3, "its size is not that of its tensors"),
        ({"x": tensor(0, 4)}, 5, "its size is not that of its tensors"),
        ({"x": tensor(0, 4), "y": tensor(2, 6)}, 6, "overlap or leave a gap"),
        ({"x": tensor(0, 4), "y": tensor(5, 6)}, 6, "overlap or leave a gap"),
        ({"x": tensor(0, 4, shape=[2, 3])}, 4, "not that of its shape"),
        ({"x": tensor(0, 4, shape=[-2, -2])}, 4, "describes a tensor wrongly"),
        ({"x": tensor(0, 4, shape=[True, 4])}, 4, "describes a tensor wrongly"),
        ({"x": tensor(0, 4, shape=[1] * 10_000)}, 4, "describes a tensor wrongly"),
        ({"x": tensor(0, 4, shape=[1 << 61])}, 4, "describes a tensor wrongly"),
        ({"x": tensor(0, 4, data_offsets=[4, 0])}, 4, "not that of its shape"),
        ({"x": tensor(0, 4, data_offsets=["0", 4])}, 4, "describes a tensor wrongly"),
        ({"x": tensor(0, 4, dtype="PICKLE")}, 4, "unknown type 'PICKLE'"),
        ({"x": {"dtype": "U8"}}, 0, "describes a tensor wrongly"),
        ({"x": 5}, 0, "describes a tensor wrongly"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: Any, data: int, why: str) -> None:
    raw(tmp_path / "a.safetensors", header, data)
    text = refusal(tmp_path)
    assert why in text
    assert "a.safetensors" in text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "ends within its header"),
        (b"\x02\0\0", "ends within its header"),
        (b"\xff" * 8 + b"{}", "ends within its header"),
        ((100).to_bytes(8, "little") + b"{}", "ends within its header"),
    ],
)
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    assert why in refusal(tmp_path)


def test_an_enormous_header_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.write((1 << 33).to_bytes(8, "little"))
        file.truncate((1 << 33) + 8)
    assert "a header of 8,589,934,592 bytes" in refusal(tmp_path)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    assert "not a plain file" in refusal(tmp_path)
