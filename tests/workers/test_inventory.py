"""What this machine may use: control groups of both kernel versions, AMD's files, the operator's choice of GPUs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from workers import amd, inventory
from workers.cgroup import CgroupLimit, memory_limit
from workers.cuda_visible import visible
from workers.devices import Device, DeviceKind, environment


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def membership(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "membership"
    file.write_text(text)
    return file


def test_the_machine_has_a_device_with_memory() -> None:
    for device in inventory.survey().devices:
        assert device.total_mib is not None
        assert device.free_mib is not None
        assert 0 < device.free_mib <= device.total_mib


def test_the_operator_limits_what_may_be_placed_on_the_cpu() -> None:
    device = inventory.cpu(memory_mib=7)
    assert (device.id, device.total_mib, device.free_mib) == ("cpu", 7, 7)
    assert inventory.cpu(memory_mib=1 << 40).total_mib == inventory.cpu().total_mib


def test_who_belongs_to_a_replica_is_told_by_its_session() -> None:
    ours = inventory.in_sessions_of({os.getsid(0)})
    assert ours(os.getpid())
    assert not ours(1 << 30)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as other:
        assert not ours(other.pid)


def test_the_tightest_group_around_us_counts(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(root / "a" / "b", memory__max="max", memory__current="5")
    group(root / "a", memory__max="1000", memory__current="700", memory__stat="anon 600\ninactive_file 50")
    group(root, memory__max="9000", memory__current="800")
    assert memory_limit(root, membership(tmp_path, "0::/a/b\n")) == CgroupLimit(1000, 350)


def test_inside_a_container_the_top_group_counts_though_the_path_is_the_host_s(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(root, memory__max="1000", memory__current="100")
    assert memory_limit(root, membership(tmp_path, "0::/host/only\n")) == CgroupLimit(1000, 900)


def test_the_older_kernel_interface_is_read_too(tmp_path: Path) -> None:
    root = tmp_path / "cg"
    group(
        root / "memory" / "x",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="400",
        memory__stat="total_inactive_file 100",
    )
    assert memory_limit(root, membership(tmp_path, "3:cpu:/\n2:memory:/x\n")) == CgroupLimit(1000, 700)


@pytest.mark.parametrize("text", ["max", str((1 << 63) - 4096)])
def test_no_limit_is_none(tmp_path: Path, text: str) -> None:
    root = tmp_path / "cg"
    group(root, memory__max=text, memory__current="1")
    assert memory_limit(root, membership(tmp_path, "0::/\n")) is None
    assert memory_limit(root, tmp_path / "missing") is None


def card(drm: Path, name: str, slot: str, **files: str) -> None:
    """A graphics card as the kernel shows it: a link to its PCI device."""
    group(drm / "pci" / slot, **{"vendor": "0x1002"} | files)
    (drm / name).mkdir()
    (drm / name / "device").symlink_to(drm / "pci" / slot)


def test_amd_s_gpus_are_read_from_the_kernel_in_the_order_of_their_slots(tmp_path: Path) -> None:
    used = {"mem_info_vram_total": str(64 << 30), "mem_info_vram_used": str(4 << 30)}
    card(tmp_path, "card1", "0000:41:00.0", unique_id="1a2b3c4d5e6f7081", product_name="MI210", **used)
    card(tmp_path, "card0", "0000:c3:00.0", **used)
    card(tmp_path, "card2", "0000:01:00.0", vendor="0x1a03")
    (tmp_path / "card1-DP-1").mkdir()
    first, second = amd.gpus(tmp_path)
    assert (first.id, first.total_mib, first.free_mib, first.name) == ("rocm:0", 65536, 61440, "MI210")
    assert first.uuid == "GPU-1a2b3c4d5e6f7081"
    assert (second.id, second.uuid, second.name) == ("rocm:1", "", "AMD GPU")


def test_an_amd_gpu_that_does_not_answer_is_unknown(tmp_path: Path) -> None:
    card(tmp_path, "card0", "0000:41:00.0", mem_info_vram_total="", mem_info_vram_used="0")
    (device,) = amd.gpus(tmp_path)
    assert device.free_mib is None
    assert "amdgpu" in device.unknown


def test_a_machine_without_graphics_has_no_amd_gpu(tmp_path: Path) -> None:
    assert amd.gpus(tmp_path / "missing") == ()


def gpu(number: str, uuid: str, name: str = "NVIDIA A40") -> Device:
    return Device(id=f"cuda:{number}", kind=DeviceKind.CUDA, total_mib=9, free_mib=9, name=name, uuid=uuid)


ALIKE = (gpu("0", "GPU-aa1"), gpu("1", "GPU-aa2"))
MIXED = (gpu("0", "GPU-aa1"), gpu("1", "GPU-aa2", "NVIDIA T4"))
CUT = (gpu("0:0", "MIG-bb1"), gpu("0:1", "MIG-bb2"))


@pytest.mark.parametrize(
    ("devices", "value", "seen"),
    [
        (ALIKE, "1,0", ["cuda:0", "cuda:1"]),
        (ALIKE, " 1 ", ["cuda:1"]),
        (ALIKE, "GPU-aa2,7,0", ["cuda:1"]),
        (ALIKE, "GPU-aa", []),
        (ALIKE, "NoDevFiles", []),
        (CUT, "MIG-bb2", ["cuda:0:1"]),
        ((), "0", []),
    ],
)
def test_the_list_of_visible_gpus_is_read_as_cuda_reads_it(
    devices: tuple[Device, ...], value: str, seen: list[str]
) -> None:
    assert [device.id for device in visible(devices, {"CUDA_VISIBLE_DEVICES": value})] == seen


@pytest.mark.parametrize("devices", [MIXED, CUT])
def test_a_number_that_could_mean_either_gpu_is_not_guessed(devices: tuple[Device, ...]) -> None:
    told = visible(devices, {"CUDA_VISIBLE_DEVICES": "1"})
    assert [(device.id, device.free_mib) for device in told] == [(device.id, None) for device in devices]
    assert all("uuid" in device.unknown for device in told)


def test_a_number_counts_slots_where_the_operator_says_so() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert visible(MIXED, environ) == (MIXED[1],)


def test_a_process_sees_the_gpus_it_was_given_by_uuid_and_no_other() -> None:
    assert environment(ALIKE)["CUDA_VISIBLE_DEVICES"] == "GPU-aa1,GPU-aa2"
    assert environment([gpu("1", "")]) == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert environment([inventory.cpu()])["CUDA_VISIBLE_DEVICES"] == ""
    assert environment([replace(ALIKE[0], kind=DeviceKind.ROCM)]) == {"ROCR_VISIBLE_DEVICES": "GPU-aa1"}
    assert environment([]) == {}
