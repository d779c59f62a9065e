"""Replicas as processes: who finds them again, who ends them, and who is never touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from workers import launcher
from workers.devices import Device, DeviceKind
from workers.launcher import output, roster
from workers.launcher.base import EXIT_UNSEEN, Command, Launcher, Replica, Resources
from workers.launcher.detached import DetachedLauncher
from workers.launcher.ending import end_all
from workers.launcher.errors import LauncherDownError, NameTakenError, RefusedError, SupervisorGoneError
from workers.launcher.guard_process import start_ticks
from workers.launcher.process import ProcessLauncher
from workers.launcher.roster import Roster
from workers.launcher.site import Site, held

POLITE = "import signal; print('up', flush=True); signal.pause()"
# Ignores SIGTERM, and has a child that does the same; their names go over their environment, as vLLM's do.
STUBBORN = """
import contextlib, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with contextlib.suppress(ImportError):
    import setproctitle
    setproctitle.setproctitle("Engine")
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); signal.pause()"], stdout=subprocess.PIPE)
child.stdout.readline()
print("child", child.pid, "up", flush=True)
signal.pause()
"""
# Has written more than a log may hold, and one line more whenever it is asked.
GROWING = f"""
import signal
signal.signal(signal.SIGUSR1, lambda *_: print("more", flush=True))
print("x" * {output.ROTATE_AT_BYTES})
print("up", flush=True)
while True:
    signal.pause()
"""
# A node agent: starts one replica and waits for its end.
AGENT = """
import signal, sys
from workers import launcher
from workers.launcher.base import Command, Resources
from workers.launcher.site import Site
argv = [sys.executable, "-c", sys.argv[2]]
starter = launcher.create(Site.from_json(sys.argv[1]))
env = {"CELERITY_MODEL": "m", "SPT_NOENV": "1"}
starter.start(Command(name="m-1", argv=argv, env=env, log="m"), Resources())
print("started", flush=True)
signal.pause()
"""
# `celerity up`, with that agent as one of its services.
SUPERVISOR = """
import signal, sys
from pathlib import Path
from workers.launcher.base import Command
from workers.launcher.guard_process import start_ticks
from workers.launcher.process import ProcessLauncher
from workers.launcher.site import Site
site = Site.from_json(sys.argv[1])
launcher = ProcessLauncher(Path(sys.argv[4]), grace_s=0.3, replicas_of=site)
launcher.start(Command(name="redis", argv=[sys.executable, "-c", sys.argv[3]], env={}, log="redis"))
agent = [sys.executable, "-c", sys.argv[2], sys.argv[1], sys.argv[3]]
launcher.start(Command(name="agent", argv=agent, env={}, log="agent"))
signal.pause()
"""


def command(code: str = POLITE, *, name: str = "m-1", **env: str) -> Command:
    env = {"CELERITY_MODEL": "m", "SPT_NOENV": "1", **env}
    return Command(name=name, argv=[sys.executable, "-c", code], env=env, log="m")


def running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def up(replica: Replica) -> bool:
    return "up" in " ".join(replica.tail(5)).split()


def child_of(replica: Replica) -> int:
    wait_until(lambda: up(replica), "the replica to be up")
    return int(replica.tail(1)[0].split()[1])


def start_agent(site: Site, code: str = POLITE) -> subprocess.Popen[bytes]:
    """Run an agent until it has started its replica."""
    agent = subprocess.Popen([sys.executable, "-c", AGENT, site.to_json(), code], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    with agent.stdout:
        assert agent.stdout.readline() == b"started\n"
    return agent


def adopted(site: Site) -> tuple[DetachedLauncher, Replica]:
    """Return what an agent finds that starts after another one has died."""
    found = DetachedLauncher(site)
    wait_until(found.list, "the replica to be on record")
    (replica,) = found.list()
    return found, replica


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    here = Site(state_dir=tmp_path, node="n")
    yield here
    end_all(launcher.create(here), grace_s=0)


@pytest.fixture
def starter(site: Site) -> Iterator[DetachedLauncher]:
    chosen = DetachedLauncher(site)
    yield chosen
    end_all(chosen, grace_s=0)


def test_what_was_started_is_listed_with_all_that_is_known_of_it(starter: DetachedLauncher, site: Site) -> None:
    known: Launcher = starter
    replica = known.start(command(), Resources())
    wait_until(lambda: up(replica), "the replica to be up")
    assert known.list() == (replica,)
    assert (replica.name, replica.model, replica.handle) == ("m-1", "m", f"process {replica.pid}")
    assert replica.log == site.logs / "m-1.log"
    (record,) = Roster(site.replicas).all()
    assert (record.pid, record.ticks) == (replica.pid, starter.list()[0].record.ticks)
    assert abs(record.started_at - psutil.Process(replica.pid).create_time()) < 60


def test_how_it_ended_stays_until_it_is_forgotten(starter: DetachedLauncher) -> None:
    replica = starter.start(command("import sys; sys.exit('no such weights')"), Resources())
    wait_until(lambda: replica.exit_code() is not None, "exit")
    assert [it.exit_code() for it in starter.list()] == [1]
    assert replica.tail(1) == ["no such weights"]
    with pytest.raises(NameTakenError):
        starter.start(command(), Resources())
    replica.forget()
    assert starter.list() == ()


def test_a_program_that_does_not_exist_is_an_exit_with_its_reason(starter: DetachedLauncher) -> None:
    replica = starter.start(replace(command(), argv=["/no/such/program"]), Resources())
    wait_until(lambda: replica.exit_code() == 1, "exit")
    assert "No such file" in replica.tail(1)[0]


def test_a_replica_sees_the_devices_it_was_given(starter: DetachedLauncher) -> None:
    gpu = Device(id="cuda:1", kind=DeviceKind.CUDA, total_mib=9, free_mib=9, uuid="GPU-7")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CELERITY_REPLICA_ID'])"
    replica = starter.start(command(code, CUDA_VISIBLE_DEVICES="0"), Resources(devices=(gpu,)))
    wait_until(lambda: replica.exit_code() == 0, "exit")
    assert replica.tail(1) == ["GPU-7 m-1"]


def test_a_replica_outlives_its_agent_and_the_next_agent_finds_it(site: Site) -> None:
    agent = start_agent(site, STUBBORN)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    found, replica = adopted(site)
    child = child_of(replica)
    assert (replica.name, replica.model, replica.exit_code()) == ("m-1", "m", None)
    replica.terminate()
    assert replica.exit_code() is None
    replica.kill()
    wait_until(lambda: replica.exit_code() is not None, "exit")
    # Nobody was its parent, so nobody knows how it ended.
    assert replica.exit_code() == EXIT_UNSEEN
    assert not running(child)
    replica.forget()
    assert found.list() == ()


def test_a_replica_that_ended_between_two_agents_is_told_and_leaves_nobody(site: Site) -> None:
    agent = start_agent(site, STUBBORN)
    _, replica = adopted(site)
    child = child_of(replica)
    agent.kill()
    agent.wait()
    os.kill(replica.pid, signal.SIGKILL)
    wait_until(lambda: not running(replica.pid), "the leader to end")
    assert running(child)
    _, replica = adopted(site)
    assert replica.exit_code() == EXIT_UNSEEN
    assert not running(child)


def test_a_replica_that_somebody_else_reaped_has_ended_too(starter: DetachedLauncher) -> None:
    replica = starter.start(command("pass"), Resources())
    os.waitpid(replica.pid, 0)
    assert replica.exit_code() == EXIT_UNSEEN


def test_orphans_are_ended_and_who_is_wanted_is_not(starter: DetachedLauncher) -> None:
    kept = starter.start(command(name="m-1"), Resources())
    orphan = starter.start(command(name="m-2"), Resources())
    wait_until(lambda: up(kept) and up(orphan), "both up")
    assert end_all(starter, grace_s=20, keep={"m-1"}) == ("m-2",)
    assert orphan.exit_code() == -signal.SIGTERM
    assert starter.list() == (kept,)
    assert kept.exit_code() is None


def test_a_process_that_is_not_ours_is_never_touched(site: Site) -> None:
    """The record's number now belongs to somebody else: another id, or none, or another time."""
    ours = {**os.environ, "CELERITY_REPLICA_ID": "m-1"}
    strangers = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True, env=env)
        for env in (dict(os.environ), ours | {"CELERITY_REPLICA_ID": "m-2"}, ours)
    ]
    try:
        began = [start_ticks(stranger.pid) for stranger in strangers[:2]]
        for ticks, stranger in zip((*began, 1), strangers, strict=True):
            record = roster.Record(
                replica="m-1", model="m", log="", memory_mib=None, pid=stranger.pid, started_at=0, ticks=ticks
            )
            assert roster.leader(record) is None
        for number, stranger in enumerate(strangers[:2]):
            facts = {"replica": "m-1", "model": "m", "log": "", "memory_mib": 0, "pid": stranger.pid}
            file = Roster(site.replicas).path("m-1")
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(facts | {"started_at": number, "ticks": start_ticks(stranger.pid)}))
            found = DetachedLauncher(site)
            found.tend()
            assert [it.exit_code() for it in found.list()] == [EXIT_UNSEEN]
            assert end_all(found, grace_s=0) == ("m-1",)
        assert all(stranger.poll() is None for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.communicate()


def test_a_replica_is_there_while_its_program_takes_another_s_place(site: Site, starter: DetachedLauncher) -> None:
    """As its own does its helper's; the kernel shows no environment then, for a moment of which 200 are enough."""
    code = (
        "import os, sys; left = int(sys.argv[1])\n"
        "if left: os.execv(sys.executable, [sys.executable, '-S', '-c', sys.orig_argv[3], str(left - 1)])"
    )
    argv = (sys.executable, "-S", "-c", code, "200")
    replica = starter.start(Command(name="m-1", argv=argv, env={}, log="m"), Resources())
    wait_until(lambda: Roster(site.replicas).all(), "the replica to be on record")
    (record,) = Roster(site.replicas).all()
    process, seen = psutil.Process(replica.pid), []
    while process.status() != psutil.STATUS_ZOMBIE:
        seen.append(roster.leader(record) is not None)
    # The last look may have come just after its end.
    assert all(seen[:-1])
    assert replica.exit_code() == 0


def test_a_record_that_cannot_be_read_is_no_replica(site: Site, starter: DetachedLauncher) -> None:
    starter.list()
    for name, text in (("a", ""), ("b", "[]"), ("c", "{}")):
        Roster(site.replicas).path(name).write_text(text)
    assert starter.list() == ()


def test_who_takes_too_much_memory_is_ended_and_it_is_said_why(starter: DetachedLauncher) -> None:
    code = "import signal; held = bytearray(b'x') * (200 << 20); print('up', flush=True); signal.pause()"
    greedy = starter.start(command(code, name="m-1"), Resources(memory_mib=100))
    modest = starter.start(command(code, name="m-2"), Resources(memory_mib=1000))
    wait_until(lambda: up(greedy) and up(modest), "both up")
    starter.tend()
    wait_until(lambda: greedy.exit_code() == -signal.SIGKILL, "exit")
    assert "was allowed 100" in str(greedy.why())
    assert (modest.exit_code(), modest.why()) == (None, None)


def test_a_log_that_grows_is_cut_while_it_is_written_to(starter: DetachedLauncher, site: Site) -> None:
    replica = starter.start(command(GROWING), Resources())
    log = site.logs / "m-1.log"
    wait_until(lambda: up(replica), "the replica to be up")
    starter.tend()
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size > output.ROTATE_AT_BYTES
    os.kill(replica.pid, signal.SIGUSR1)
    wait_until(lambda: log.read_text() == "more\n", "the next line")


def test_only_the_latest_logs_are_kept(starter: DetachedLauncher, site: Site) -> None:
    site.logs.mkdir(parents=True)
    for number in range(60):
        log = site.logs / f"old-{number}.log"
        log.write_text("")
        os.utime(log, (number, number))
    replica = starter.start(command(), Resources())
    kept = {log.stem for log in site.logs.glob("*.log")}
    assert len(kept) == 51
    assert {"old-59", "m-1"} <= kept
    assert "old-0" not in kept
    replica.kill()


def test_an_id_that_is_a_path_is_refused(starter: DetachedLauncher) -> None:
    with pytest.raises(RefusedError):
        starter.start(command(name="../m"), Resources())


def test_a_supervisor_that_is_killed_takes_the_replicas_of_its_agent_along(site: Site, tmp_path: Path) -> None:
    arguments = [site.to_json(), AGENT, STUBBORN, str(tmp_path / "services")]
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, *arguments], start_new_session=True)
    _, replica = adopted(site)
    child = child_of(replica)
    agent = psutil.Process(replica.pid).ppid()
    os.killpg(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    wait_until(lambda: not any(map(running, (agent, child, replica.pid))), "everyone gone")
    wait_until(lambda: not Roster(site.replicas).all(), "nobody on record")


def test_an_agent_that_is_killed_under_a_supervisor_takes_nobody_along(site: Site, tmp_path: Path) -> None:
    with held(site):
        agent = start_agent(site)
        _, replica = adopted(site)
        agent.kill()
        agent.wait()
        assert replica.exit_code() is None


def test_an_orderly_stop_of_the_supervisor_leaves_no_replica(site: Site, tmp_path: Path) -> None:
    services = ProcessLauncher(tmp_path / "services", grace_s=0.3, replicas_of=site)
    agent = start_agent(site, STUBBORN)
    _, replica = adopted(site)
    child = child_of(replica)
    services.close()
    assert not any(map(running, (child, replica.pid)))
    assert Roster(site.replicas).all() == []
    agent.kill()
    agent.wait()


def test_nothing_is_started_for_a_supervisor_that_has_ended(site: Site) -> None:
    with held(site):
        late = DetachedLauncher(site)
    with pytest.raises(SupervisorGoneError) as caught:
        late.start(command(), Resources())
    assert isinstance(caught.value, LauncherDownError), "the node cannot start it, and the model is not to blame"
    # It may end just then: the process that was to become the replica looks once more.
    facts = json.dumps({"replica": "m-1", "model": "m", "log": "", "memory_mib": None})
    record = Roster(site.replicas).path("m-1")
    helper = [sys.executable, "-m", "workers.launcher.guard_process", "replica", str(record), facts, site.to_json()]
    done = subprocess.run([*helper, sys.executable, "-c", "print('ran')"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert "has ended" in done.stderr
    assert not record.exists()
