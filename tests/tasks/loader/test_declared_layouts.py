"""From models.yaml to what is started: static layouts, exclusive pools, bound devices, rollouts in a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.loader import cluster_facts
from tasks.records.nodes import Node, NodeFacts
from workers.devices import Device, DeviceKind
from workers.placement.actions import Start
from workers.placement.facts import Demand, Facts, Need, Rollout
from workers.placement.limits import Limits
from workers.placement.plan import plan
from workers.registry import Registry

NOW = 1_000_000.0
A40 = 46_068
MIB = {"heavy": 18_200, "light": 9_400, "other": 9_400, "new": 9_400, "old": 9_400}


def started(tmp_path: Path, text: str, *asked: str, nodes: tuple[str, ...] = ("box",), cards: int = 2) -> list[str]:
    """Return what a first tick starts on machines of two A40s each, as `model on node/device`."""
    file = tmp_path / "models.yaml"
    file.write_text(text)
    registry = Registry.load(file)
    needs = {id_: (Need(DeviceKind.CUDA, MIB[id_]),) for id_ in registry.models}
    found = [Device(id=f"cuda:{n}", kind=DeviceKind.CUDA, total_mib=A40, free_mib=A40 - 500 - n) for n in range(cards)]
    told = [Node(NodeFacts(id=name, devices=tuple(found), needs=needs), heartbeat_age_s=1.0) for name in nodes]
    facts = Facts(
        models=cluster_facts.models(registry.models.values(), told),
        demands=[Demand(model=name, interactive=1, interactive_oldest_s=0.5, last_request_at=NOW) for name in asked],
        devices=cluster_facts.devices(told, registry.layout, NOW),
        nodes=cluster_facts.known_nodes(told),
        rollouts=[Rollout(name, it.desired, it.previous) for name, it in registry.rollouts.items()],
        limits=Limits(loads_at_once=9),
    )
    starts = [action for action in plan(facts, NOW).actions if isinstance(action, Start)]
    return sorted(f"{it.model} on {it.node}/{','.join(it.devices)}" for it in starts)


HEAVY_AND_LIGHT = """
models:
  heavy: {path: org/heavy, pinned: true, replicas: {min: 2, max: 2}%s}
  light: {path: org/light, pinned: true, replicas: {min: 2, max: 2}%s}
"""


def test_two_heavy_and_two_light_on_two_cards_come_out_as_one_of_each_on_either(tmp_path: Path) -> None:
    assert started(tmp_path, HEAVY_AND_LIGHT % ("", "")) == [
        *("heavy on box/cuda:0", "heavy on box/cuda:1"),
        *("light on box/cuda:0", "light on box/cuda:1"),
    ]


def test_a_layout_can_put_both_heavy_ones_on_one_card(tmp_path: Path) -> None:
    apart = HEAVY_AND_LIGHT % (", devices: [box/cuda:0]", ", devices: ['cuda:1']")
    assert started(tmp_path, apart) == ["heavy on box/cuda:0"] * 2 + ["light on box/cuda:1"] * 2


def test_a_layout_for_a_machine_that_is_not_there_starts_nothing_elsewhere(tmp_path: Path) -> None:
    assert started(tmp_path, HEAVY_AND_LIGHT % (", devices: [gone/cuda:0]", "")) == [
        *("light on box/cuda:0", "light on box/cuda:1"),
    ]


POOL = """
models:
  heavy: {path: org/heavy}
  other: {path: org/other}
devices:
  cuda:*: {exclusive: true}
  box/cuda:0: {bound_to: %s}
"""


def test_nothing_else_is_placed_on_a_device_of_a_pool(tmp_path: Path) -> None:
    assert started(tmp_path, POOL % "heavy", "other", "heavy") == ["heavy on box/cuda:0", "other on box/cuda:1"]


def test_a_pool_of_an_alias_that_is_gone_is_for_everybody(tmp_path: Path) -> None:
    assert started(tmp_path, POOL % "gone", "other") == ["other on box/cuda:0"]


def test_idle_nodes_that_belong_to_no_pool_are_used(tmp_path: Path) -> None:
    assert started(tmp_path, POOL % "heavy", "other", cards=1, nodes=("box", "spare")) == ["other on spare/cuda:0"]


@pytest.mark.parametrize(("slots", "there"), [(1, 2), (2, 4), (None, 4)])
def test_a_device_takes_as_many_as_it_has_slots(tmp_path: Path, slots: int | None, there: int) -> None:
    text = "models: {light: {path: org/light, pinned: true, replicas: {min: 4, max: 4}}}\n"
    slots_text = "null" if slots is None else str(slots)
    assert len(started(tmp_path, f"{text}devices: {{'*': {{slots: {slots_text}}}}}")) == there


def test_a_pool_of_an_alias_takes_both_builds_of_its_rollout(tmp_path: Path) -> None:
    text = """
models:
  new: {path: org/new}
  old: {path: org/old}
  other: {path: org/other}
aliases:
  chat: {desired: new, previous: old}
devices:
  box/cuda:0: {bound_to: chat}
"""
    assert started(tmp_path, text, "new", cards=1) == ["new on box/cuda:0"]
    assert started(tmp_path, text, "old", cards=1) == ["new on box/cuda:0", "old on box/cuda:0"]
    assert started(tmp_path, text, "other", cards=1) == []
