"""The systems that the rows run in."""

from __future__ import annotations

from dataclasses import replace

from tests.faults.system import Setup
from tests.stack import REPOSITORY

SIM, OTHER, SLOW, SMALL = "sim", "other", "slow", "small"
FAST, LOADING, DEMO = "fast", "loading", "demo"
VLLM_TOKENS = 64
SEATS = 4
"""Of `small`."""

# `slow` reads its prompt for a long time; `small` has few seats and a short queue.
SIM_MODELS = f"""
models:
  {SIM}:
    engine: sim
    sim: {{load_s: 0.2, ttft_ms: 30, itl_ms: 12, seats: 64, faults: true}}
  {SLOW}:
    engine: sim
    sim: {{load_s: 0.2, ttft_ms: 300, itl_ms: 5, seats: 64, faults: true}}
  {SMALL}:
    engine: sim
    sim: {{load_s: 0.2, ttft_ms: 20, itl_ms: 12, seats: {SEATS}, faults: true}}
    queue: {{max_depth: 20, max_wait_s: 6}}
  {FAST}:
    engine: sim
    sim: {{load_s: 0.2, ttft_ms: 0, itl_ms: 0, seats: 256}}
  {LOADING}:
    engine: sim
    sim: {{load_s: 5, ttft_ms: 30, itl_ms: 12, seats: 64}}
  {OTHER}:
    engine: sim
    sim: {{load_s: 0, ttft_ms: 10, itl_ms: 3, seats: 16}}
"""

# The demo model as it is shipped, and a simulated one beside it.
VLLM_MODELS = (
    (REPOSITORY / "models.yaml").read_text().partition("\n# A real model with")[0]
    + f"""
  {OTHER}:
    engine: sim
    sim: {{load_s: 0, ttft_ms: 10, itl_ms: 3, seats: 16}}
"""
)

TWO = Setup(models=SIM_MODELS, workers=((SIM, 2), (OTHER, 1)))
THREE = Setup(models=SIM_MODELS, workers=((SIM, 3), (OTHER, 1)))
ONE = Setup(models=SIM_MODELS, workers=((SIM, 1), (OTHER, 1)))
TWO_SLOW = Setup(models=SIM_MODELS, workers=((SLOW, 2), (OTHER, 1)))
ONE_SMALL = Setup(models=SIM_MODELS, workers=((SMALL, 1), (OTHER, 1)))
TWO_VLLM = Setup(models=VLLM_MODELS, workers=((DEMO, 2), (OTHER, 1)))
TWO_AOF = replace(TWO, appendonly=True)
TWO_PROXIED = replace(TWO, proxied=True)
DRAINING = replace(TWO, env=(("CELERITY_DRAIN_TIMEOUT_S", "4"),))
LEAVING = Setup(models=SIM_MODELS, workers=((SMALL, 1), (SLOW, 1), (OTHER, 1)))
NOT_READING = Setup(
    models=SIM_MODELS, workers=((SIM, 1), (FAST, 1), (OTHER, 1)), env=(("CELERITY_WRITE_TIMEOUT_S", "3"),)
)
SLOW_CLIENTS = replace(TWO, env=(("CELERITY_HEADER_TIMEOUT_S", "2"), ("CELERITY_BODY_TIMEOUT_S", "3")))
ONE_FAST = Setup(models=SIM_MODELS, workers=((FAST, 1), (OTHER, 1)))
ONE_LOADING = Setup(models=SIM_MODELS, workers=((LOADING, 1), (OTHER, 1)))
CLOCKS = replace(TWO, moved_clock=True)

# What the loader has to do with: each of three takes the whole of the memory that the pinned one leaves.
A, B, C = "a", "b", "c"
LOADED_MODELS = f"""
models:
  {A}: {{engine: sim, idle_ttl_s: 600, sim: {{load_s: 1, ttft_ms: 30, itl_ms: 12, seats: 64, memory_mib: 1000}}}}
  {B}: {{engine: sim, idle_ttl_s: 600, sim: {{load_s: 1, ttft_ms: 30, itl_ms: 12, seats: 64, memory_mib: 1000}}}}
  {C}: {{engine: sim, idle_ttl_s: 600, sim: {{load_s: 1, ttft_ms: 30, itl_ms: 12, seats: 64, memory_mib: 1000}}}}
  {OTHER}: {{engine: sim, pinned: true, sim: {{load_s: 0, ttft_ms: 10, itl_ms: 3, seats: 16, memory_mib: 200}}}}
"""
MANAGED = Setup(
    models=LOADED_MODELS, workers=((A, 0), (OTHER, 0)), managed=True, env=(("CELERITY_MEMORY_MIB", "1500"),)
)
ONE_GPU = replace(MANAGED, gpus="gpu 0 1500 0 NVIDIA A40\n", env=())
IN_CONTAINERS = replace(MANAGED, docker=True)
