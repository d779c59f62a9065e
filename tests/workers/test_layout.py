"""What models.yaml says of devices, for one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers.layout import DevicePattern, DeviceUse, Layout
from workers.registry import Registry


@pytest.mark.parametrize(
    ("pattern", "node", "device", "matches"),
    [
        ("gpu-box/cuda:0", "gpu-box", "cuda:0", True),
        ("gpu-box/cuda:0", "other", "cuda:0", False),
        ("gpu-box/cuda:0", "gpu-box", "cuda:1", False),
        ("cuda:0", "anything", "cuda:0", True),
        ("cuda:0", "anything", "cuda:0:1", False),
        ("cuda:*", "n", "cuda:3", True),
        ("cuda:*", "n", "rocm:3", False),
        ("rack-1-*/*", "rack-1-7.example.org", "cpu", True),
        ("rack-1-*/*", "rack-2-7", "cpu", False),
        ("*", "n", "cuda:1:0", True),
    ],
)
def test_a_device_is_named_with_or_without_its_node(pattern: str, node: str, device: str, matches: bool) -> None:
    assert DevicePattern.parse(pattern).matches(node, device) is matches


@pytest.mark.parametrize("text", ["", "gpu", "cuda", "cuda:x", "/cuda:0", "a/b/cuda:0", "n/", "cuda:[01]", "n /cpu"])
def test_what_names_no_device_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a device is NODE/DEVICE"):
        DevicePattern.parse(text)


def test_of_what_several_entries_say_the_later_counts_key_by_key() -> None:
    layout = Layout.of_entries(
        {"cuda:*": {"exclusive": True, "slots": 2}, "a/cuda:0": {"bound_to": "heavy"}, "a/*": {"slots": None}}
    )
    assert layout.use_of("a", "cuda:0") == DeviceUse(exclusive=True, bound_to="heavy", slots=None)
    assert layout.use_of("b", "cuda:0") == DeviceUse(exclusive=True, slots=2)
    assert layout.use_of("b", "cpu") == DeviceUse()


def test_the_file_says_where_a_model_may_be_and_what_a_device_is_for(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n  m: {engine: sim, devices: [a/cuda:0, cuda:1]}\n  any: {engine: sim}\n"
        "devices:\n  a/cuda:0: {exclusive: true, bound_to: m, slots: 1}\n"
    )
    registry = Registry.load(file)
    assert registry.models["m"].devices == ("a/cuda:0", "cuda:1")
    assert registry.models["any"].devices == ()
    assert registry.layout.use_of("a", "cuda:0") == DeviceUse(exclusive=True, bound_to="m", slots=1)
