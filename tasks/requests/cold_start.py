"""What becomes of a request whose model has no ready replica. Pure.

What the loader says of a model is for operators, who may know what stands where. Here it
is put into words for anybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from tasks.errors import PoolExhaustedError, ServingError, error_of
from workers.placement.actions import Explanation, Outlook


class Patience(StrEnum):
    """What a client makes of a model that has to be loaded first."""

    WAIT = "wait"
    """It waits, as long as that is of use."""
    INSIST = "insist"
    """It waits also while no room can be made: that may change."""
    DEFER = "defer"
    """It comes back later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms a client wants a model that may have to be loaded first."""

    patience: Patience = Patience.WAIT
    stand_in: str = ""
    """The other build that its name for the model may mean; empty when there is none."""


NO_TERMS = Terms()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How somebody stands who waits for a model."""

    state: str
    """The loader's outlook; "queued" while it has said nothing."""
    text: str
    position: int | None = None
    """1 is the next to be served; None where there is no queue to stand in."""
    progress: float | None = None
    """How far the load is, from 0 to 1."""


class Deferred(Exception):  # noqa: N818  # it is no failure: the client asked for it
    """The call was not queued, since its client does not wait; its model is being loaded meanwhile."""

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.text)
        self.standing = standing


def refusal(explanation: Explanation | None, terms: Terms) -> ServingError | None:
    """Return the error for which waiting would be in vain; None where it makes sense, or nothing is known."""
    if explanation is None or (terms.stand_in and explanation.instead == terms.stand_in):
        return None
    # Who asked for this very build is not served by another one.
    code = replace(explanation, instead=None).code
    if code is None or (terms.patience is Patience.INSIST and code == PoolExhaustedError.code):
        return None
    text = told(explanation, "the model")
    return error_of(code, f"{text[0].upper()}{text[1:]}.", retry_after_s=explanation.retry_after_s)


def standing(explanation: Explanation | None, position: int | None = None) -> Standing:
    """Return how a client stands whose model is not ready."""
    if explanation is None:
        return Standing(state="queued", text="it waits to be loaded", position=position)
    return Standing(
        state=explanation.outlook.value, text=told(explanation), position=position, progress=explanation.progress
    )


# "it" is how the model is called.
_TOLD = {
    Outlook.SERVING: "{text}",
    Outlook.LOADING: "{text}",
    Outlook.MAKING_ROOM: "other models are leaving a device for {it}",
    Outlook.IN_TURN: "other models are using the devices; its turn will come",
    Outlook.NO_MACHINE: "it waits for a machine that can run it",
    Outlook.BACKING_OFF: "the last load of {it} failed: {text}",
    Outlook.FAILED: "{it} could not be loaded: {text}",
    Outlook.CANNOT_RUN: "no machine here can run {it}",
    Outlook.NO_CAPACITY: "no device can be freed for {it} now",
    Outlook.SWITCHED_OFF: "models are loaded by hand only at the moment, and {it} is not loaded",
}


def told(explanation: Explanation, it: str = "it") -> str:
    """Return what a client may know: no machine, no device, no path."""
    return _TOLD[explanation.outlook].format(it=it, text=_without_paths(explanation.text))


_PATH = re.compile(r"(?<![\w.])~?/[^\s'\",;:)]+")


def _without_paths(reason: str) -> str:
    return " ".join(_PATH.sub("…", reason).split()).removesuffix(".")
