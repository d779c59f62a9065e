"""What a replica that has loaded tells about the next one. Pure; whoever launched it looks at it."""

from __future__ import annotations

from workers.devices import DeviceKind
from workers.estimate.measured import Measured
from workers.estimate.needs import Estimate


def measured(
    model: str,
    kind: DeviceKind,
    need: Estimate | None,
    *,
    taken_mib: int | None,
    kv_mib: int | None,
    worked: bool,
    load_s: float | None = None,
) -> Measured:
    """Return what a look at a replica says, which takes `taken_mib` of the fullest of its devices.

    `need` is the estimate of its model, by its terms. `worked` says that it has answered for a
    while; before, it has not taken yet what its largest step needs.
    """
    if need is None or not need.made_of or taken_mib is None or kv_mib is None or taken_mib <= kv_mib:
        return Measured(model=model, kind=kind, load_s=load_s)
    step = 0 if worked else sum(term.mib for term in need.terms if term.name == "activations")
    return Measured(model=model, kind=kind, made_of=need.made_of, other_mib=taken_mib - kv_mib + step, load_s=load_s)
