"""What the planner answers: things to do, and why nothing is done for those who wait.

An action says what should be, not how: carried out twice it must do no more than once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Reserve the memory, then start a new replica."""

    model: str
    slot: int
    """The lowest number that none of the model's replicas has: two loaders that see the same choose the same."""
    node: str
    devices: tuple[str, ...]
    mib: int
    """To be reserved on each of the devices."""
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Have the replica take nothing new, finish what it has, and end."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process of a replica that has nothing left to finish, or never became ready."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Have the replica take nothing new, finish what it has, and sleep."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Have a sleeping replica load its weights back, and take work again."""

    replica: str
    why: str


@dataclass(frozen=True, slots=True)
class MarkFailed:
    """Give the model up: what waits for it fails with `reason`, until an operator loads it or its entry changes."""

    model: str
    reason: str


Action = Start | Drain | Stop | Sleep | Wake | MarkFailed


class Outlook(StrEnum):
    """What somebody who waits for a model can expect."""

    SERVING = "serving"  # a replica is ready
    LOADING = "loading"  # one is being started or woken
    MAKING_ROOM = "making_room"  # others are leaving for it
    IN_TURN = "in_turn"  # its turn comes, at the age limit at the latest
    NO_MACHINE = "no_machine"  # none that could run it is heard of; one may come back
    BACKING_OFF = "backing_off"  # a load failed; the next try has to wait
    FAILED = "failed"  # given up
    CANNOT_RUN = "cannot_run"  # no device here could ever hold it
    NO_CAPACITY = "no_capacity"  # what holds the room may not be moved for it
    SWITCHED_OFF = "switched_off"  # placement by hand only


_CODES = {
    Outlook.FAILED: "model_load_failed",
    Outlook.CANNOT_RUN: "model_load_failed",
    Outlook.NO_CAPACITY: "pool_exhausted",
    Outlook.SWITCHED_OFF: "pool_exhausted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a model that is wanted is not (yet) served."""

    outlook: Outlook
    text: str
    """For users and operators; says what to do where they can do something."""
    retry_after_s: float | None = None
    instead: str | None = None
    """A model to be used in its place now: the previous build of a rollout."""
    progress: float | None = None
    """How far the load is, from 0 to 1, by what it took before; None while nothing loads."""

    @property
    def code(self) -> str | None:
        """The error that who waits should get now; None: waiting makes sense, or `instead` serves."""
        return None if self.instead else _CODES.get(self.outlook)


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...]
    explanations: Mapping[str, Explanation]
    """By model, for each that is asked for or should be up."""
    again_at: float | None = None
    """When planning is worth it again even if nothing happens until then; None: at the next tick."""
