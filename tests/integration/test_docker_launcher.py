"""Replicas in containers of a real Docker engine: what they may do, who finds them, and who is never touched."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tasks import keys
from tasks.messages import Done
from tests.docker_engine import IMAGE, REPOSITORY, Engine, engine
from tests.stack import Stack, chat, read, text_of
from tests.waiting import wait_until
from workers.devices import Device, DeviceKind
from workers.engine.sim import tag_of, token
from workers.inventory import in_sessions_of
from workers.launcher import create
from workers.launcher.base import EXIT_UNSEEN, Command, Launcher, Replica, Resources, new_replica_id, worker_command
from workers.launcher.ending import end_all
from workers.launcher.errors import ImageMissingError, LauncherDownError, LaunchError, NameTakenError, RefusedError
from workers.launcher.site import Site, held
from workers.registry import ModelSpec

pytestmark = pytest.mark.integration

PATIENT = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
)
# `celerity up`: holds the site and starts nothing by itself.
SUPERVISOR = """
import signal, sys
from pathlib import Path
from workers.launcher.process import ProcessLauncher
from workers.launcher.site import Site
site = Site.from_json(sys.argv[1])
launcher = ProcessLauncher(site.state_dir / "services", grace_s=5, replicas_of=site)
print("held", flush=True)
signal.pause()
"""
# What a container may do, told by itself.
LOOK = """
import getpass, os, pathlib
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print("user", os.getuid())
print("capabilities", int(status["CapEff"], 16), int(status["CapBnd"], 16))
print("no new privileges", int(status["NoNewPrivs"]))
for path in ("/x", "/etc/x", MODELS, "/tmp/x"):
    try:
        pathlib.Path(path).write_text("")
        print("can write", path)
    except OSError as error:
        print("cannot write", path)
print("shared", os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize >> 30)
print("home", os.environ["HOME"], getpass.getuser())
print("secrets", os.path.exists(SECRET), "SECRET" in os.environ)
"""


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    with engine() as running:
        yield running


@pytest.fixture
def site(docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("DOCKER_HOST", docker.socket)
    return Site(state_dir=tmp_path, node="n", launcher="docker", image=IMAGE, mounts=docker.mounts)


@pytest.fixture
def launcher(site: Site) -> Iterator[Launcher]:
    chosen = create(site)
    yield chosen
    end_all(chosen, grace_s=0)
    chosen.close()


def command(code: str = PATIENT, *, name: str = "m-1") -> Command:
    return Command(name=name, argv=[sys.executable, "-c", code], env={"CELERITY_MODEL": "m"}, log="m")


def up(replica: Replica) -> bool:
    return "up" in replica.tail(5)


def wait_for_exit(replica: Replica) -> int | None:
    wait_until(lambda: replica.exit_code() is not None, "exit")
    return replica.exit_code()


def test_a_worker_in_a_container_serves_what_is_asked_through_redis(running: Stack, launcher: Launcher) -> None:
    spec = ModelSpec(id="sim", engine="sim")
    worker = worker_command(spec, new_replica_id("sim"), running.settings.to_env())
    replica = launcher.start(worker, Resources(memory_mib=1000))
    client = running.client()

    def ready() -> bool:
        assert replica.exit_code() is None, "\n".join(replica.tail(50))
        return client.hget(keys.replica(replica.name), "state") == b"ready"

    wait_until(ready, "the worker to be ready", timeout_s=120)
    client.close()
    dispatcher = running.dispatcher()
    events = read(dispatcher.submit(chat("hello", gateway=dispatcher.gateway_id), max_depth=10))
    assert isinstance(events[-1], Done)
    assert text_of(events) == "".join(token(tag_of("hello"), index) for index in range(8))
    replica.terminate()
    assert wait_for_exit(replica) == 0
    assert "engine ready" not in replica.tail(50)


def test_a_container_may_read_what_it_needs_and_nothing_else(launcher: Launcher, tmp_path: Path) -> None:
    models, secret = tmp_path / "models", tmp_path / "secret"
    models.mkdir()
    secret.write_text("")
    code = f"MODELS, SECRET = {str(models / 'x')!r}, {str(secret)!r}\n{LOOK}"
    replica = launcher.start(replace(command(code), reads=(str(models),)), Resources())
    assert wait_for_exit(replica) == 0, replica.tail(20)
    assert replica.tail(20) == [
        "user 65534",
        "capabilities 0 0",
        "no new privileges 1",
        "cannot write /x",
        "cannot write /etc/x",
        f"cannot write {models}/x",
        "can write /tmp/x",
        "shared 8",
        "home /tmp celerity",
        "secrets False False",
    ]


def test_what_was_started_is_listed_with_all_that_is_known_of_it(launcher: Launcher, docker: Engine) -> None:
    replica = launcher.start(command(), Resources())
    wait_until(lambda: up(replica), "the replica to be up")
    (found,) = launcher.list()
    assert (found.name, found.model, found.handle) == ("m-1", "m", replica.handle)
    assert "celerity-m-1" in str(found.log)
    assert Path(f"/proc/{found.pid}/cmdline").read_bytes().startswith(b"python3\0-m\0workers.launcher.init_process\0")
    assert found.exit_code() is None
    found.terminate()
    assert wait_for_exit(found) == 7
    found.terminate()
    found.kill()
    found.forget()
    assert launcher.list() == ()
    assert found.exit_code() == EXIT_UNSEEN
    assert found.tail(5) == []
    found.forget()
    assert docker.client.containers.list(all=True) == []


def test_a_container_that_is_still_starting_hears_that_it_is_to_stop(launcher: Launcher) -> None:
    """The kernel keeps from a container's first process whatever it has no handler for."""
    replica = launcher.start(command("import signal; signal.pause()"), Resources())
    replica.terminate()
    assert wait_for_exit(replica) == 128 + signal.SIGTERM


def test_whoever_holds_memory_of_a_gpu_in_a_container_is_known_as_ours(launcher: Launcher) -> None:
    replica = launcher.start(command(), Resources())
    wait_until(lambda: up(replica), "the replica to be up")
    ours = in_sessions_of({found.pid for found in launcher.list()})
    (worker,) = psutil.Process(launcher.list()[0].pid).children()
    assert ours(worker.pid)
    assert not ours(os.getpid())


def test_the_next_agent_finds_what_its_predecessor_started(site: Site, launcher: Launcher) -> None:
    launcher.start(command(), Resources())
    launcher.close()
    next_agent = create(site)
    (found,) = next_agent.list()
    assert (found.name, found.exit_code()) == ("m-1", None)
    next_agent.close()


def test_only_what_this_installation_started_on_this_node_is_ended(
    docker: Engine, site: Site, launcher: Launcher, tmp_path: Path
) -> None:
    others = [create(replace(site, node="other")), create(replace(site, state_dir=tmp_path / "other"))]
    strangers = [other.start(command(name=f"m-{n}"), Resources()) for n, other in enumerate(others, 7)]
    run = {"command": ["-c", PATIENT], "entrypoint": ["python3"], "volumes": [f"{p}:{p}:ro" for p in docker.mounts]}
    unlabelled = docker.client.containers.run(IMAGE, detach=True, network_mode="host", name="celerity-m-5", **run)
    kept = launcher.start(command(name="m-1"), Resources())
    launcher.start(command(name="m-2"), Resources())
    assert {it.name for it in launcher.list()} == {"m-1", "m-2"}
    assert end_all(launcher, grace_s=20, keep={"m-1"}) == ("m-2",)
    assert kept.exit_code() is None
    assert [it.exit_code() for it in strangers] == [None, None]
    unlabelled.reload()
    assert unlabelled.status == "running"
    with pytest.raises(NameTakenError, match="celerity-m-5"):
        launcher.start(command(name="m-5"), Resources())
    unlabelled.remove(force=True)
    for other in others:
        end_all(other, grace_s=0)
        other.close()


def test_the_kernel_ends_who_takes_too_much_memory(launcher: Launcher) -> None:
    greedy = launcher.start(command("held = bytearray(b'x') * (200 << 20)"), Resources(memory_mib=100))
    assert wait_for_exit(greedy) == 128 + signal.SIGKILL
    assert "the 100 MiB it was allowed" in str(greedy.why())


def test_an_image_that_is_missing_is_said_and_not_fetched(site: Site) -> None:
    without = create(replace(site, image="celerity-test:missing"))
    with pytest.raises(ImageMissingError, match="celerity-test:missing"):
        without.start(command(), Resources())
    assert without.list() == ()
    without.close()


def test_a_gpu_that_the_engine_cannot_give_leaves_no_container(launcher: Launcher) -> None:
    gpu = Device(id="cuda:0", kind=DeviceKind.CUDA, total_mib=9, free_mib=9, uuid="GPU-1")
    with pytest.raises(RefusedError, match="capabilities"):
        launcher.start(command(), Resources(devices=(gpu,)))
    assert launcher.list() == ()


# Docker's library leaves a socket open for each call that nobody answers.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_down_is_said_and_the_next_question_is_asked_anew(
    site: Site, docker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{site.state_dir}/nobody")
    late = create(site)
    for ask in (late.list, lambda: late.start(command(), Resources())):
        with pytest.raises(LauncherDownError, match="systemctl start docker"):
            ask()
    monkeypatch.setenv("DOCKER_HOST", docker.socket)
    assert late.list() == ()
    late.close()
    gc.collect()


def test_a_supervisor_that_is_killed_takes_the_containers_along(site: Site) -> None:
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, site.to_json()], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert supervisor.stdout is not None
    with supervisor.stdout:
        assert supervisor.stdout.readline() == b"held\n"
    agent = create(site)
    replica = agent.start(command(), Resources())
    wait_until(lambda: up(replica), "the replica to be up")
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: agent.list() == (), "the container to be gone")
    agent.close()


def test_nothing_is_started_for_a_supervisor_that_has_ended(site: Site) -> None:
    with held(site):
        late = create(site)
    with pytest.raises(LaunchError, match="has ended"):
        late.start(command(), Resources())
    assert late.list() == ()
    late.close()
