"""NVIDIA's GPUs, through the real binding, from a driver that fails in every way we know of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.workers.nvml_double import TWO_A40S, Machine, build
from workers.devices import Device, DeviceKind, Holder

LOST, NO_PERMISSION, NOT_LOADED, MISMATCH, UNINITIALIZED, UNKNOWN = 15, 4, 9, 18, 1, 999
UUIDS = tuple(f"GPU-a400000{index}-0000-4000-8000-000000000000" for index in range(2))


class Boot(Protocol):
    def __call__(self, **environ: str) -> Machine: ...


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def boot(library: Path, tmp_path: Path) -> Iterator[Boot]:
    with ExitStack() as stack:
        yield lambda **environ: stack.enter_context(Machine(library, tmp_path / "facts", **environ))


@pytest.fixture(scope="module")
def machine(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Machine(library, tmp_path_factory.mktemp("machine") / "facts") as running:
        yield running


def a40(index: int, free_mib: int, **facts: object) -> Device:
    known: dict[str, object] = {"total_mib": 46068, "free_mib": free_mib, "name": "NVIDIA A40", "uuid": UUIDS[index]}
    return Device(id=f"cuda:{index}", kind=DeviceKind.CUDA, **known | facts)  # type: ignore[arg-type]


def test_two_gpus_and_what_is_free_on_each(machine: Machine) -> None:
    survey = machine.survey(TWO_A40S)
    assert survey.devices == (a40(0, 45068), a40(1, 46068))
    assert (survey.driver, survey.problem) == ("580.65.06", "")


def test_whoever_else_holds_memory_is_named_largest_first(machine: Machine) -> None:
    held = "process 0 -1 700 300\nprocess 0 -1 800 600\ndrawing 0 -1 900 50\ndrawing 0 -1 700 300\nprocess 1 -1 5 -1\n"
    first, second = machine.survey(TWO_A40S + held, ours=(800,)).devices
    assert first.foreign == (Holder(700, 300), Holder(900, 50))
    assert second.foreign == (Holder(5, None),)


@pytest.mark.parametrize("function", ["GetComputeRunningProcesses", "GetGraphicsRunningProcesses"])
def test_a_driver_that_names_no_processes_leaves_the_memory_known(machine: Machine, function: str) -> None:
    device = machine.survey(f"{TWO_A40S}fail {function} 0 {NO_PERMISSION}\n").devices[0]
    assert (device.free_mib, device.foreign) == (45068, None)


@pytest.mark.parametrize("function", ["GetHandleByIndex", "GetMemoryInfo", "GetMigMode"])
def test_a_gpu_that_falls_off_the_bus_is_unknown_and_its_neighbour_is_not(machine: Machine, function: str) -> None:
    assert machine.survey(TWO_A40S).devices[1].free_mib == 46068
    first, second = machine.survey(f"{TWO_A40S}fail {function} 1 {LOST}\n").devices
    assert first == a40(0, 45068)
    assert (second.id, second.total_mib, second.free_mib, second.foreign) == ("cuda:1", None, None, None)
    assert second.unknown.startswith("NVML: GPU is lost (it has fallen off the bus; ")
    assert machine.survey(TWO_A40S).devices[1] == a40(1, 46068)


@pytest.mark.parametrize("function", ["GetName", "GetUUID", "GetDriverVersion"])
def test_a_gpu_without_a_name_is_as_good_as_any(machine: Machine, function: str) -> None:
    survey = machine.survey(f"{TWO_A40S}fail {function} -1 {UNKNOWN}\n")
    assert [device.free_mib for device in survey.devices] == [45068, 46068]


def test_an_exchanged_driver_hides_every_gpu_and_the_cpu_does_not_stand_in(boot: Boot) -> None:
    survey = boot().survey(f"{TWO_A40S}fail Init -1 {MISMATCH}\n")
    assert survey.devices == ()
    assert "version mismatch" in survey.problem
    assert "restart the machine" in survey.problem


def test_a_driver_that_comes_back_is_found(machine: Machine) -> None:
    lost = machine.survey(f"{TWO_A40S}fail GetCount -1 {UNINITIALIZED}\n")
    assert (lost.devices, lost.problem) == ((), "NVML: Uninitialized")
    still = machine.survey(f"{TWO_A40S}fail Init -1 {UNKNOWN}\nfail Shutdown -1 {UNKNOWN}\n")
    assert still.devices == ()
    assert len(machine.survey(TWO_A40S).devices) == 2


@pytest.mark.parametrize("facts", ["", f"fail Init -1 {NOT_LOADED}\n"])
def test_without_a_gpu_the_cpu_serves(boot: Boot, facts: str) -> None:
    survey = boot().survey(facts)
    assert [device.id for device in survey.devices] == ["cpu"]
    assert ("load the driver" in survey.problem) == bool(facts)


def test_every_mig_instance_is_a_device_and_the_gpu_round_them_is_not(machine: Machine) -> None:
    facts = "gpu 0 40960 0 NVIDIA A100\ngpu 1 40960 0 NVIDIA A100\n"
    facts += "instance 0 0 4864 100\ninstance 0 2 9984 0\nprocess 0 2 77 40\n"
    first, second, whole = machine.survey(facts).devices
    assert (first.id, first.free_mib, first.name) == ("cuda:0:0", 4764, "NVIDIA A100 MIG 1g.5gb")
    assert (second.id, second.total_mib, second.foreign) == ("cuda:0:2", 9984, (Holder(77, 40),))
    assert first.uuid.startswith("MIG-")
    assert len({first.uuid, second.uuid, whole.uuid}) == 3
    assert (whole.id, whole.free_mib) == ("cuda:1", 40960)


def test_a_gpu_that_is_to_be_cut_and_is_not_yet_cannot_be_used(machine: Machine) -> None:
    (device,) = machine.survey("gpu 0 40960 0 NVIDIA A100\nmig 0\n").devices
    assert device.free_mib is None
    assert "no instance" in device.unknown


@pytest.mark.parametrize(
    ("visible", "seen"),
    [("1", ["cuda:1"]), (UUIDS[0], ["cuda:0"]), ("GPU-a4000001", ["cuda:1"]), ("", ["cpu"]), ("-1", ["cpu"])],
)
def test_only_gpus_that_the_operator_leaves_us_are_ours(boot: Boot, visible: str, seen: list[str]) -> None:
    machine = boot(CUDA_VISIBLE_DEVICES=visible)
    assert [device.id for device in machine.survey(TWO_A40S).devices] == seen


def test_what_our_processes_hold_of_each_gpu_is_told_apart_from_what_others_do(machine: Machine) -> None:
    held = "process 0 -1 700 300\nprocess 0 -1 800 600\nprocess 0 -1 801 50\nprocess 1 -1 900 20\n"
    assert machine.held(TWO_A40S + held, ours=(800, 801, 900)) == {"cuda:0": 650, "cuda:1": 20}
    assert machine.held(TWO_A40S + held, ours=(1,)) == {}


def test_what_a_driver_does_not_say_we_do_not_guess(machine: Machine) -> None:
    assert machine.held(TWO_A40S + "process 0 -1 800 -1\nprocess 1 -1 800 20\n", ours=(800,)) == {"cuda:1": 20}
