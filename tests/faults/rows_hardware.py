"""F30 and F31: what models run on, or in, fails or is somebody else's."""

from __future__ import annotations

import time

from tests.faults.expected import sim_ask
from tests.faults.load import reach
from tests.faults.managed import Managed
from tests.faults.outcome import Kind
from tests.faults.row import Run
from tests.faults.rows_loader import asked, managed
from tests.faults.setups import OTHER, A, B
from tests.waiting import wait_until

# `fail <function> <gpu> <code>`: every look at a GPU's memory ends with "unknown error".
_LIES = "fail GetMemoryInfo -1 999\nfail GetMemoryInfo_v2 -1 999\n"
_GPU = "gpu 0 1500 {used} NVIDIA A40\n"
_NO_ROOM = ("pool_exhausted",)


def docker_down(run: Run) -> None:
    """F30: the Docker daemon does not answer, and then the image is missing; what runs in containers goes on."""
    system = managed(run)
    proxy = system.hardware.docker_proxy
    assert proxy is not None
    asked(run, A)
    load = run.load(2)
    time.sleep(2)
    run.fault()
    proxy.cut()
    wait_until(lambda: system.node().problem, "the agent to say so", timeout_s=30)
    run.check("the node says why", "Docker" in system.node().problem, system.node().problem)
    cold = asked_in_vain(run, B)
    run.check("a cold model is refused, with a reason", cold in _NO_ROOM, cold)
    time.sleep(4)
    load.stop()
    proxy.restore()
    wait_until(lambda: not system.node().problem, "the agent to go on", timeout_s=30)
    run.healed()
    wait_until(lambda: _answered(run, B), "the cold model", timeout_s=30)
    run.all_clean()


def driver_lies(run: Run) -> None:
    """F31: the driver fails, and then somebody else takes the GPU's memory: nothing is guessed, nothing thrashes."""
    system = managed(run)
    asked(run, A)
    before = system.policy.loads
    run.fault()
    system.hardware.facts.write_text(_GPU.format(used=1200) + _LIES)
    load = run.load(2)
    wait_until(lambda: _unknown(system), "the device to be unknown", timeout_s=30)
    refused = asked_in_vain(run, B)
    run.check("a cold model is refused while nothing is known", refused in _NO_ROOM, refused)
    system.hardware.facts.write_text(_GPU.format(used=1450) + "process 0 -1 1 1300\n")
    wait_until(lambda: not _unknown(system), "the device to be known", timeout_s=30)
    time.sleep(5)
    load.stop()
    run.check("what serves went on serving", system.ready_replicas(A), len(system.ready_replicas(A)))
    moved = system.policy.loads[OTHER] - before[OTHER]
    run.check("the pinned model was not moved", moved == 0, moved)
    system.hardware.facts.write_text(_GPU.format(used=0))
    run.healed()
    wait_until(lambda: _answered(run, B), "room for another model", timeout_s=60)
    loads = sum((system.policy.loads - before).values())
    run.check("no loop of loads", loads <= 2, dict(system.policy.loads))
    run.all_clean()


def asked_in_vain(run: Run, model: str) -> str:
    """Ask, and return the code of the refusal; it counts for no other check."""
    return reach(run.system.port, sim_ask(model)).code


def _answered(run: Run, model: str) -> bool:
    """Ask; a refusal does not count."""
    outcome = reach(run.system.port, sim_ask(model))
    if outcome.kind is Kind.CLEAN:
        run.outcomes.add(outcome)
    return outcome.kind is Kind.CLEAN


def _unknown(system: Managed) -> bool:
    return any(device.unknown for device in system.node().devices)
