"""How each contender is started. Each is given what its own documents call its fastest sensible settings."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy import embedded_redis
from tests.bench.peers import environments
from tests.bench.peers.contender import Contender, sorted_by
from tests.bench.peers.started import NotStartedError, started, tree
from tests.bench.site import site
from tests.stack import REPOSITORY, free_port
from workers.engine import vllm_args
from workers.registry import Registry

INSTANT, PACED, DEMO = "instant", "paced", "demo"
ITL_MS = 2
# More seats than the most requests at once, so that nobody waits for one: the stub has no limit either.
SIM_MODELS = f"""
models:
  {INSTANT}: {{engine: sim, pinned: true, sim: {{seats: 1024}}}}
  {PACED}: {{engine: sim, pinned: true, sim: {{seats: 1024, itl_ms: {ITL_MS}}}}}
"""

DEMO_MODELS = REPOSITORY / "models.yaml"
_MEMORY_MIB = 4000


@dataclass(frozen=True, slots=True)
class Places:
    """The block that is measured, the folder for logs, and that of the peers' environments."""

    block: str
    folder: Path
    envs: Path


def start(places: Places, name: str, engine: Contender | None) -> contextlib.AbstractContextManager[Contender]:
    """Start a contender; `engine` is the stub, which some stand in front of."""
    if name in _IN_FRONT:
        if engine is None or engine.name != "stub":
            raise NotStartedError("the stub engine, which it stands in front of, is not there")
        return _IN_FRONT[name](places.folder, places.envs, engine)
    match name:
        case "celerity":
            return celerity(name, DEMO_MODELS.read_text() if places.block == "vllm" else SIM_MODELS)
        case "celerity-2":
            return celerity(name, SIM_MODELS, gateways=2)
        case "stub":
            return stub(places.folder)
        case "vllm":
            return vllm_server(places.folder)
    return ray_serve(places.folder, places.envs)


@contextlib.contextmanager
def stub(folder: Path) -> Iterator[Contender]:
    """The stub engine alone: what everything in front of it is measured against."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.peers.stub", "--port", str(port)]
    command += ["--model", f"{INSTANT}=0", "--model", f"{PACED}={ITL_MS}"]
    url = f"http://127.0.0.1:{port}"
    with started(command, log=folder / "stub.log", probe=f"{url}/health") as process:
        yield Contender("stub", url, lambda: {"stub": tree(process)})


@contextlib.contextmanager
def sglang_router(folder: Path, cache: Path, engine: Contender) -> Iterator[Contender]:
    """sglang's router in Rust. One worker leaves nothing to choose: round robin is the cheapest of its policies."""
    port, url = _address()
    command = [environments.SGLANG_ROUTER.program(cache), "-m", "sglang_router.launch_router"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine.url, "--policy", "round_robin"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()), "--log-level", "error"]
    with _before(engine, "sglang-router", command, folder, url) as contender:
        yield contender


@contextlib.contextmanager
def vllm_router(folder: Path, cache: Path, engine: Contender) -> Iterator[Contender]:
    """vLLM's router in Rust, in the same way."""
    port, url = _address()
    command = [environments.VLLM_ROUTER.program(cache, "vllm-router")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine.url, "--policy", "round_robin"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()), "--log-level", "error"]
    with _before(engine, "vllm-router", command, folder, url) as contender:
        yield contender


@contextlib.contextmanager
def litellm(folder: Path, cache: Path, engine: Contender, *, processes: int = 1) -> Iterator[Contender]:
    """LiteLLM's proxy without keys, database, callbacks and retries, in production mode."""
    name = "litellm" if processes == 1 else f"litellm-{processes}"
    port, url = _address()
    there = {"api_base": f"{engine.url}/v1", "api_key": "none"}
    entries = [{"model_name": it, "litellm_params": {"model": f"openai/{it}", **there}} for it in (INSTANT, PACED)]
    config = {"model_list": entries, "litellm_settings": {"callbacks": [], "num_retries": 0, "set_verbose": False}}
    # JSON is YAML.
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(config))
    command = [environments.LITELLM.program(cache, "litellm"), "--config", str(file)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(processes)]
    environ = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # Without a key of its own it checks none, as the others.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with _before(engine, name, command, folder, url, env=environ, probe="/health/liveliness") as contender:
        yield contender


@contextlib.contextmanager
def celerity(name: str, models: str, *, gateways: int = 1) -> Iterator[Contender]:
    """A whole `celerity up`, as a user starts it, with so many gateway processes."""
    with site(models, _MEMORY_MIB, CELERITY_GATEWAY_WORKERS=str(gateways)) as running:
        yield Contender(
            name,
            f"http://127.0.0.1:{running.port}",
            lambda: sorted_by(_celerity_label, running.processes()),
            f"unix://{embedded_redis.socket_path(running.state_dir)}",
        )


@contextlib.contextmanager
def vllm_server(folder: Path) -> Iterator[Contender]:
    """vLLM's own server with the demo model, told what our worker tells the engine."""
    port, url = _address()
    spec = Registry.load(DEMO_MODELS).models[DEMO]
    told = vllm_args.engine_args(spec, cpu=True)
    # What is said by `--disable-this` has no second way to be said.
    options = {f"--{no}{key.replace('_', '-')}" for key in told for no in ("", "no-")} - {"--no-disable-log-stats"}
    arguments = vllm_args.command_line(spec, told, options)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-uvicorn-access-log", *arguments]
    cpus = len(os.sched_getaffinity(0))
    environ = vllm_args.ENVIRONMENT | vllm_args.cpu_environment(spec, cpus=cpus) | {"HF_HUB_OFFLINE": "1"}
    with started(command, log=folder / "vllm.log", probe=f"{url}/health", env=environ, within_s=300) as process:
        yield Contender("vllm", url, lambda: sorted_by(_vllm_label, tree(process)))


@contextlib.contextmanager
def ray_serve(folder: Path, cache: Path) -> Iterator[Contender]:
    """The same answers from a deployment of Ray Serve that streams."""
    port, url = _address()
    command = [environments.RAY.program(cache), str(Path(__file__).parent / "ray_stub.py")]
    command += ["--port", str(port), "--model", f"{INSTANT}=0", "--model", f"{PACED}={ITL_MS}"]
    environ = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_TMPDIR": str(folder)}
    with started(command, log=folder / "ray.log", probe=f"{url}/health", env=environ) as process:
        yield Contender("ray-serve", url, lambda: sorted_by(_ray_label, tree(process)))


@contextlib.contextmanager
def _before(
    engine: Contender,
    name: str,
    command: list[str],
    folder: Path,
    url: str,
    *,
    env: dict[str, str] | None = None,
    probe: str = "/health",
) -> Iterator[Contender]:
    """Run a program that stands in front of the stub."""
    with started(command, log=folder / f"{name}.log", probe=url + probe, env=env) as process:
        yield Contender(name, url, lambda: {name: tree(process), **engine.processes()})


def _address() -> tuple[int, str]:
    port = free_port()
    return port, f"http://127.0.0.1:{port}"


def _celerity_label(command: str) -> str:
    if "redis-server" in command:
        return "redis"
    if "gunicorn" in command:
        return "gateway"
    return "engine worker" if "-Q model." in command else "control"


def _vllm_label(command: str) -> str:
    return "engine" if "EngineCore" in command else "server"


def _ray_label(command: str) -> str:
    if "ray::Proxy" in command:
        return "ray proxy"
    return "ray replica" if "ray::ServeReplica" in command else "ray runtime"


_IN_FRONT: dict[str, Callable[[Path, Path, Contender], contextlib.AbstractContextManager[Contender]]] = {
    "sglang-router": sglang_router,
    "vllm-router": vllm_router,
    "litellm": litellm,
    "litellm-2": partial(litellm, processes=2),
}
