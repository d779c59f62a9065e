"""The rows of the fault matrix that are about the loader: F26 to F32."""

from __future__ import annotations

from tests.faults import rows_hardware as hardware
from tests.faults import rows_loader as loader
from tests.faults import setups
from tests.faults.row import Row

_NOTHING = "nothing"

LOADER = (
    Row(
        id="F26",
        fault="beat is dead",
        client_sees="nothing; a model that has to be loaded may come some seconds later",
        lost=_NOTHING,
        setup=setups.MANAGED,
        act=loader.beat_dead,
    ),
    Row(
        id="F27",
        fault="two beats and two loaders run",
        client_sees="nothing",
        lost=_NOTHING,
        setup=setups.MANAGED,
        act=loader.doubled,
    ),
    Row(
        id="F28",
        fault="the loader or the node agent ends half-way, at five places",
        client_sees="a load that takes some seconds longer",
        lost=_NOTHING,
        setup=setups.MANAGED,
        act=loader.dies_half_way,
    ),
    Row(
        id="F29",
        fault="a worker runs that nobody has ordered, beside a process that only looks like one",
        client_sees="nothing; the worker is adopted, the process not touched",
        lost=_NOTHING,
        setup=setups.MANAGED,
        act=loader.orphans,
    ),
    Row(
        id="F30",
        fault="Docker does not answer",
        client_sees="429 `pool_exhausted` for models that would have to be loaded; nothing for those that run",
        lost=_NOTHING,
        setup=setups.IN_CONTAINERS,
        act=hardware.docker_down,
    ),
    Row(
        id="F31",
        fault="NVIDIA's driver fails, then somebody else takes the GPU's memory",
        client_sees="429 `pool_exhausted` for models that would have to be loaded; nothing for those that run",
        lost=_NOTHING,
        setup=setups.ONE_GPU,
        act=hardware.driver_lies,
    ),
    Row(
        id="F32",
        fault="six clients ask for three models in turn, and one fits",
        client_sees="its answer, after the turn of the others",
        lost=_NOTHING,
        setup=setups.MANAGED,
        act=loader.thrash,
    ),
)
