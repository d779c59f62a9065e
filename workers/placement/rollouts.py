"""An alias that moves from `previous` to `desired`: one of the two always serves.

1. While `desired` has no ready replica, `previous` keeps the replicas it has, whatever else is short.
2. As long as `previous` is up or wanted, one replica of `desired` is kept, so that the move goes on
   without a request for it.
3. Where `desired` cannot be had (it fails, or there is no room), `previous` is tried before anybody is refused.
4. Once `desired` is ready, `previous` goes as soon as nobody has used it for a while, unless it is
   wanted for its own sake: pinned, kept by `replicas.min`, or the desired build of another alias.

A build may belong to several aliases; each of them is looked at.
"""

from __future__ import annotations

from workers.placement.facts import Rollout
from workers.placement.scaling import wanted
from workers.placement.site import Site


def enter(site: Site) -> None:
    """Enter into the books what the rollouts protect, ask for, and have no more use for."""
    moves = [rollout for rollout in site.facts.rollouts if rollout.previous is not None]
    desired = {rollout.desired for rollout in site.facts.rollouts}
    for move in moves:
        previous = str(move.previous)
        if not site.ready(move.desired):
            site.guarded.add(previous)
        elif previous not in desired:
            site.superseded.add(previous)
    site.superseded -= site.guarded
    site.kept |= {move.desired for move in moves if _goes_on(site, move)}


def stand_ins(site: Site) -> dict[str, str]:
    """Return, by desired build, the one to be used where it cannot be had."""
    return {
        rollout.desired: rollout.previous
        for rollout in site.facts.rollouts
        if rollout.previous is not None and rollout.previous in site.models
    }


def _goes_on(site: Site, move: Rollout) -> bool:
    previous = site.models.get(str(move.previous))
    if previous is None:
        return False
    return site.count(previous.id) > 0 or bool(site.asleep[previous.id]) or wanted(site, previous) > 0
