"""An alias that moves from `previous` to `desired`: one of the two always serves.

1. While `desired` has no ready replica, `previous` keeps the replicas it has, whatever else is short.
2. As long as `previous` is up, `desired` is wanted, so that the move goes on without a request for it.
3. Where `desired` cannot be had (it fails, or there is no room), `previous` is tried before anybody is refused.
4. Once `desired` is ready, `previous` goes as soon as nobody has used it for a while, unless it is
   wanted for its own sake: pinned, kept by `replicas.min`, or the desired build of another alias.

A build may belong to several aliases; each of them is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from workers.placement.site import Site


def guarded(site: Site) -> set[str]:
    """Return the previous builds that must stay up for now."""
    return {
        rollout.previous
        for rollout in site.facts.rollouts
        if rollout.previous is not None and not site.ready(rollout.desired)
    }


def moving(site: Site) -> Iterator[str]:
    """Yield the desired builds that are wanted because the previous one is up in their place."""
    for rollout in site.facts.rollouts:
        up = rollout.previous is not None and (site.count(rollout.previous) or site.asleep[rollout.previous])
        if up and rollout.desired in site.models:
            yield rollout.desired


def superseded(site: Site) -> set[str]:
    """Return the builds that are up only because an alias once meant them."""
    desired = {rollout.desired for rollout in site.facts.rollouts}
    return {
        rollout.previous
        for rollout in site.facts.rollouts
        if rollout.previous is not None and rollout.previous not in desired and site.ready(rollout.desired)
    } - site.guarded


def stand_ins(site: Site) -> dict[str, str]:
    """Return, by desired build, the one to be used where it cannot be had."""
    return {
        rollout.desired: rollout.previous
        for rollout in site.facts.rollouts
        if rollout.previous is not None and rollout.previous in site.models
    }
