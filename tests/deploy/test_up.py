"""`celerity up` as a person runs it: real processes, the simulated engine, one terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy import embedded_redis
from tests.processes import alive, of_state_dir
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

MODELS = """
models:
  sim-a: {engine: sim, pinned: true, aliases: [light], sim: {seats: 4}}
  idle: {engine: sim}
  # Longer than from one look of `celerity up` to the next, which tells of it.
  brief: {engine: sim, idle_ttl_s: 6}
"""
DOOMED = "doomed: {engine: sim, pinned: true, sim: {load_s: 600}}"
COMMAND = (sys.executable, "-m", "deploy")


@dataclass
class Up:
    """A `celerity up` in its own process group, its output in files."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    @property
    def state_dir(self) -> Path:
        return self.folder / "s"

    def url(self) -> str:
        wait_until(lambda: "ready " in self.out or self.process.poll() is not None, "ready", timeout_s=90)
        found = re.fullmatch(r"ready (http://127\.0\.0\.1:\d+)/v1\n", self.out)
        assert found, self.out + self.err
        return found[1]

    def family(self) -> list[psutil.Process]:
        """Return all that it has started: its own descendants, and the replicas, which outlive who starts them."""
        descendants = psutil.Process(self.process.pid).children(recursive=True)
        found = {*alive(descendants), *of_state_dir(self.state_dir)}
        return list(found - {psutil.Process(self.process.pid)})

    def logs(self, model: str) -> list[Path]:
        """Return the logs of the replicas of `model`, the latest last."""
        logs = (self.state_dir / "logs" / "replicas").glob(f"{model}-*.log")
        return sorted(logs, key=lambda log: log.stat().st_mtime)

    def services(self, name: str) -> list[psutil.Process]:
        """Return the processes of a service of Celery's, by the node name on their command line.

        Celery writes a title over it, which is one word or many: the kernel and psutil tell them
        apart by which of the two is longer.
        """
        return [it for it in self.family() if f"-n {name}@" in command_line(it)]

    def service(self, name: str) -> psutil.Process:
        (found,) = self.services(name)
        return found

    def wait(self) -> int:
        return self.process.wait(60)

    def command(self, *args: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, *args, "--state-dir", str(self.state_dir)]
        return subprocess.run(command, capture_output=True, text=True, check=False, input=given, env=environment())

    def status(self) -> dict[str, Any]:
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr
        document: dict[str, Any] = json.loads(answer.stdout)
        return document

    def model(self, name: str = "sim-a") -> dict[str, Any]:
        found: dict[str, Any] = next(model for model in self.status()["models"] if model["id"] == name)
        return found


def environment(**more: str) -> dict[str, str]:
    """This environment without the settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERITY_")} | more


@contextlib.contextmanager
def running(folder: Path, *args: str, models: str = MODELS, **env: str) -> Iterator[Up]:
    (folder / "models.yaml").write_text(models)
    command = [*COMMAND, "up", "--port", "0", "--state-dir", str(folder / "s"), *args]
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*command, "--models", str(folder / "models.yaml")],
            stdout=out,
            stderr=err,
            start_new_session=True,
            env=environment(**env),
        )
    up = Up(folder, process)
    try:
        yield up
    finally:
        if process.poll() is None:
            process.terminate()
            up.wait()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running(tmp_path_factory.mktemp("up")) as started:
        started.url()
        yield started


def test_a_request_is_answered_once_it_says_ready(up: Up) -> None:
    answer = up.command("chat", "light", given="hello\n")
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(r"2cf2\.0 2cf2\.1 .*\n", answer.stdout)


def test_status_knows_what_runs_and_what_does_not(up: Up) -> None:
    document = up.status()
    ready, idle, _ = document["models"]
    assert (ready["id"], ready["state"], ready["pinned"], ready["aliases"]) == ("sim-a", "ready", True, ["light"])
    assert (idle["id"], idle["state"], idle["replicas"]) == ("idle", "unloaded", [])
    assert ready["replicas"][0]["pid"] in [process.pid for process in up.family()]
    (node,) = document["nodes"]
    assert node["state"] == "healthy"
    assert node["devices"][0]["total_mib"] > 0
    assert re.search(r"sim-a \(pinned\)\s+ready", up.command("status").stdout)


def test_a_model_that_is_not_loaded_answers_and_goes_again_when_it_is_not_used(up: Up) -> None:
    assert up.model("brief")["state"] == "unloaded"
    answer = up.command("chat", "brief", given="hello\n")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("2cf2.0 2cf2.1 ")
    wait_until(lambda: up.model("brief")["state"] == "unloaded", "it to be unloaded", timeout_s=60)
    wait_until(lambda: "brief      unloaded" in up.err, "that to be told")
    assert len(up.logs("brief")) == 1


def test_a_second_one_on_the_same_folder_is_refused(up: Up) -> None:
    answer = up.command("up", "--port", "0", "--models", str(up.folder / "models.yaml"))
    assert answer.returncode == 1
    assert "runs already" in answer.stderr


def test_a_taken_port_is_named(up: Up, tmp_path: Path) -> None:
    port = up.url().rpartition(":")[2]
    with running(tmp_path, "--port", port) as second:
        assert second.wait() == 1
        assert re.search(rf"port {port} is taken .*--port", second.err)
        assert second.out == ""


def test_redis_given_by_its_address_is_used_and_left_running(up: Up, tmp_path: Path) -> None:
    models = "models: {other: {engine: sim, pinned: true}}"
    url = f"unix://{embedded_redis.socket_path(up.state_dir)}"
    with running(tmp_path, "--redis-url", url, models=models, CELERITY_NODE_ID="second") as second:
        second.url()
        assert not (second.state_dir / "redis").exists()
        assert {node["id"] for node in up.status()["nodes"]} > {"second"}
        assert second.model("other")["state"] == "ready"
    assert {node["id"] for node in up.status()["nodes"]}.isdisjoint({"second"})


def test_a_replica_that_dies_is_replaced(up: Up) -> None:
    first = up.model()["replicas"][0]
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: up.model()["replicas"] not in ([], [first]), "another replica", timeout_s=60)
    second = up.model()["replicas"][0]
    assert second["id"] != first["id"]
    wait_until(lambda: up.model()["state"] == "ready", "ready again", timeout_s=60)
    wait_until(lambda: "sim-a      failed: its worker died (signal 9)" in up.err, "that to be told")


@pytest.mark.parametrize("name", ["agent", "control", "bulk"])
def test_a_service_that_dies_is_started_again_and_no_replica_minds(up: Up, name: str) -> None:
    replicas = up.model()["replicas"]
    first = up.service(name)
    first.kill()
    wait_until(lambda: f"{name:<10} died (signal 9); started again in 1 s" in up.err, "its death to be told")
    wait_until(lambda: [it.pid for it in up.services(name)] not in ([], [first.pid]), "it")
    assert up.command("chat", "brief", given="hello\n").returncode == 0
    assert [it["id"] for it in up.model()["replicas"]] == [it["id"] for it in replicas]


def test_redis_that_dies_is_started_again_and_everybody_finds_it(up: Up) -> None:
    server = next(process for process in up.family() if process.name().startswith("redis-server"))
    server.kill()
    wait_until(lambda: "redis      died (signal 9)" in up.err, "its death to be noticed")
    wait_until(lambda: embedded_redis.answers(f"unix://{embedded_redis.socket_path(up.state_dir)}"), "redis again")
    wait_until(lambda: up.command("chat", given="hello\n").returncode == 0, "an answer", timeout_s=60)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.url()
        family = up.family()
        # Redis, agent, control, beat, bulk, a gateway with its worker, one replica.
        assert len(family) >= 8
        os.kill(up.process.pid, signal.SIGINT)
        assert up.wait() == 0
        assert alive(family) == []
        order = re.findall(r"(\S+) +stopping", up.err)
        assert order == ["gateway", "agent", "control", "beat", "bulk", "models", "redis"]
        assert sorted(path.name for path in up.state_dir.iterdir()) == ["bulk", "logs", "redis", "replicas"]
        assert not list((up.state_dir / "replicas").glob("*.json"))
        assert not list((up.state_dir / "redis").glob("*.sock"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_stopped_while_it_starts(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, models="models: {slow: {engine: sim, pinned: true, sim: {load_s: 600}}}") as up:
        wait_until(lambda: "slow       loading" in up.err, "loading", timeout_s=60)
        family = up.family()
        up.process.send_signal(number)
        assert up.wait() == 0
        assert alive(family) == []


def test_killed_it_takes_everybody_with_it(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        up.url()
        family = up.family()
        os.killpg(up.process.pid, signal.SIGKILL)
        up.wait()
        wait_until(lambda: not alive(family), "everybody gone", timeout_s=60)
        answer = up.command("status")
        assert answer.returncode == 1
        assert "nothing runs here" in answer.stderr
    with running(tmp_path) as again:
        again.url()


def command_line(process: psutil.Process) -> str:
    """Return its command line; empty for one that has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def replica_of(process: psutil.Process) -> str | None:
    """Return the replica whose process it is; None for one of another kind, or that has just ended."""
    with contextlib.suppress(psutil.Error):
        return process.environ().get("CELERITY_REPLICA_ID")
    return None


def doom(up: Up) -> None:
    """Have a load end as it does when the engine cannot read the weights."""
    wait_until(lambda: up.logs("doomed") or up.process.poll() is not None, "a load", timeout_s=60)
    with up.logs("doomed")[-1].open("a") as log:
        log.write("SafetensorError: Error while deserializing header: HeaderTooLarge\n")
    replica = up.logs("doomed")[-1].stem

    def leaders() -> list[psutil.Process]:
        return [it for it in up.family() if replica_of(it) == replica]

    wait_until(leaders, "its worker")
    for process in leaders():
        with contextlib.suppress(psutil.Error):
            process.kill()


def test_a_model_that_cannot_be_loaded_is_given_up_and_the_others_serve(tmp_path: Path) -> None:
    with running(tmp_path, models=f"{MODELS}  {DOOMED}\n") as up:
        doom(up)
        up.url()
        wait_until(lambda: "doomed     given up, until it is loaded by hand" in up.err, "it to be given up")
        assert "doomed     failed: its weights are missing or broken" in up.err
        assert "           | SafetensorError" in up.err
        assert up.model("doomed")["state"] == "failed"
        assert up.model("sim-a")["state"] == "ready"
        assert "failed" in up.command("status").stdout


def test_no_model_that_works_ends_it_with_the_reason(tmp_path: Path) -> None:
    with running(tmp_path, models=f"models: {{{DOOMED}}}") as up:
        doom(up)
        assert up.wait() == 1
        assert "no pinned model could be loaded" in up.err
        assert up.out == ""
        assert of_state_dir(up.state_dir) == []


@pytest.mark.parametrize(
    ("args", "models", "expected"),
    [
        (["--host", "0.0.0.0"], MODELS, "refusing to listen on 0.0.0.0 without API keys"),
        ([], "models: {m: {engine: sim, pined: true}}", 'models.m.pined: unknown key; did you mean "pinned"?'),
        ([], "models: {m: {path: /no/such, pinned: true}}", "m: there is no folder /no/such"),
        (["--redis-url", "unix:///no/such.sock"], MODELS, "no Redis answers at unix:///no/such.sock"),
    ],
)
def test_what_is_in_the_way_is_said_and_nothing_is_left(
    tmp_path: Path, args: list[str], models: str, expected: str
) -> None:
    with running(tmp_path, *args, models=models) as up:
        assert up.wait() == 1
        assert expected in up.err
        assert "Traceback" not in up.err
        assert up.out == ""
        assert not (up.state_dir / "up.lock").exists()
