"""The memory this machine may use, with the control groups of both kernel versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from workers import inventory
from workers.inventory import CgroupLimit, cgroup_limit


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def membership(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "membership"
    file.write_text(text)
    return file


def test_the_machine_has_a_device_with_memory() -> None:
    for device in inventory.devices():
        assert 0 < device.free_mib <= device.total_mib


def test_the_cpu_is_always_there() -> None:
    assert inventory.cpu().id == "cpu"


def test_no_driver_is_no_error() -> None:
    assert (inventory.driver_version() is None) == (inventory.nvidia_gpus() == ())


def test_the_tightest_group_around_us_counts(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(root / "a" / "b", memory__max="max", memory__current="5")
    group(root / "a", memory__max="1000", memory__current="700", memory__stat="anon 600\ninactive_file 50")
    group(root, memory__max="9000", memory__current="800")
    assert cgroup_limit(root, membership(tmp_path, "0::/a/b\n")) == CgroupLimit(1000, 350)


def test_inside_a_container_the_top_group_counts_though_the_path_is_the_host_s(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(root, memory__max="1000", memory__current="100")
    assert cgroup_limit(root, membership(tmp_path, "0::/host/only\n")) == CgroupLimit(1000, 900)


def test_the_older_kernel_interface_is_read_too(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(
        root / "memory" / "x",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="400",
        memory__stat="total_inactive_file 100",
    )
    assert cgroup_limit(root, membership(tmp_path, "3:cpu:/\n2:memory:/x\n")) == CgroupLimit(1000, 700)


@pytest.mark.parametrize("text", ["max", str((1 << 63) - 4096)])
def test_no_limit_is_none(tmp_path: Path, text: str) -> None:
    root = tmp_path / "cg"
    group(root, memory__max=text, memory__current="1")
    assert cgroup_limit(root, membership(tmp_path, "0::/\n")) is None
    assert cgroup_limit(root, tmp_path / "missing") is None
