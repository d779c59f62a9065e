"""Replicas that are forked of a process that has imported everything: nobody can tell, and it need not be there."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.waiting import wait_until
from workers.devices import Device, DeviceKind
from workers.launcher import create
from workers.launcher.base import EXIT_UNSEEN, Command, Replica, Resources
from workers.launcher.detached import DetachedLauncher
from workers.launcher.ending import end_all
from workers.launcher.roster import Roster
from workers.launcher.site import Site
from workers.launcher.spares import Spare
from workers.launcher.zygote import Zygote, Zygotes
from workers.launcher.zygote_wire import Order

REPOSITORY = Path(__file__).parents[2]

# What is imported ahead. The fork finds out what it has inherited.
AHEAD = """
import os, random
imported_by = os.getpid()
drawn = None
def forked():
    global drawn
    drawn = random.random()
"""
# The replica's program. Does as its first argument says.
PROGRAM = """
import json, os, signal, sys
import ahead
handlers = {n.name: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
signals = {name: getattr(handler, "__qualname__", str(handler)) for name, handler in handlers.items()}
facts = dict(imported_by=ahead.imported_by, drawn=ahead.drawn, args=sys.argv[1:], env=dict(os.environ), pid=os.getpid(),
             sid=os.getsid(0), cwd=os.getcwd(), files=sorted(os.listdir("/proc/self/fd")), signals=signals)
print(json.dumps(facts), flush=True)
match sys.argv[1]:
    case "wait": signal.pause()
    case "end": sys.exit(int(sys.argv[2]))
    case "say": sys.exit("no such weights")
    case "break": raise ValueError("broken")
"""
AGENT = """
import sys
from tests.workers.test_zygote import command, ready, spare
from pathlib import Path
from workers.launcher import create
from workers.launcher.base import Resources
from workers.launcher.site import Site
launcher = create(Site.from_json(sys.argv[1]))
wanted = spare(Path(sys.argv[2]))
zygote = ready(launcher, wanted)
launcher.start(command(wanted, "wait"), Resources())
print(zygote.pid, flush=True)
sys.stdin.read()
"""


def spare(folder: Path, ahead: str = AHEAD) -> Spare:
    (folder / "ahead.py").write_text(ahead)
    (folder / "program.py").write_text(PROGRAM)
    return Spare("test", ("ahead",), (("PYTHONPATH", f"{folder}:{REPOSITORY}"),))


def command(of: Spare | None, *args: str, name: str = "m-1") -> Command:
    env = {**dict(of.env if of else ()), "CELERITY_MODEL": "m"}
    return Command(name=name, argv=[sys.executable, "-m", "program", *args], env=env, log="m", spare=of)


def ready(launcher: DetachedLauncher, wanted: Spare) -> Zygote:
    launcher.prepare([wanted])
    wait_until(lambda: launcher._zygotes.ready(wanted), "the zygote to be ready")
    zygote = launcher._zygotes.ready(wanted)
    assert zygote is not None
    return zygote


def facts(replica: Replica) -> dict[str, Any]:
    """What the program says of itself. A reader may see the first pages of a line that is still being written."""

    def said() -> list[str]:
        return [line for line in replica.tail(20) if line.startswith("{") and line.endswith("}")]

    wait_until(lambda: bool(said()), "the program to speak")
    return dict(json.loads(said()[0]))


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    here = Site(state_dir=tmp_path, node="n")
    yield here
    end_all(create(here), grace_s=0)


@pytest.fixture
def launcher(site: Site) -> Iterator[DetachedLauncher]:
    launcher = DetachedLauncher(site)
    yield launcher
    end_all(launcher, grace_s=0)
    launcher.close()


@pytest.fixture
def wanted(tmp_path: Path) -> Spare:
    return spare(tmp_path)


def test_a_fork_is_what_an_executed_replica_would_be(launcher: DetachedLauncher, wanted: Spare) -> None:
    gpu = Device(id="cuda:1", kind=DeviceKind.CUDA, total_mib=9, free_mib=9, uuid="GPU-7")
    executed = facts(launcher.start(command(wanted, "wait", name="m-1"), Resources(devices=(gpu,))))
    zygote = ready(launcher, wanted)
    replica = launcher.start(command(wanted, "wait", name="m-2"), Resources(devices=(gpu,)))
    forked = facts(replica)
    assert psutil.Process(replica.pid).ppid() == zygote.pid == forked["imported_by"]
    assert executed["imported_by"] == executed["pid"]
    assert forked["env"] == executed["env"] | {"CELERITY_REPLICA_ID": "m-2"}
    for same in ("args", "cwd", "signals", "files"):
        assert forked[same] == executed[same]
    assert forked["pid"] == forked["sid"] == replica.pid
    (record,) = (it for it in Roster(launcher._site.replicas).all() if it.replica == "m-2")
    assert record.pid == replica.pid


def test_two_forks_are_told_apart_from_outside_and_draw_different_numbers(
    launcher: DetachedLauncher, wanted: Spare
) -> None:
    ready(launcher, wanted)
    both = [launcher.start(command(wanted, "wait", name=f"m-{number}"), Resources()) for number in (1, 22)]
    assert len({facts(replica)["drawn"] for replica in both}) == 2
    shown = [psutil.Process(replica.pid).environ()["CELERITY_REPLICA_ID"] for replica in both]
    assert shown == ["m-1", "m-22"]


def test_forks_show_what_they_are_also_without_a_library_for_titles(
    launcher: DetachedLauncher, wanted: Spare, tmp_path: Path
) -> None:
    (tmp_path / "setproctitle.py").write_text("raise ImportError")
    zygote = ready(launcher, wanted)
    replica = launcher.start(command(wanted, "wait"), Resources())
    assert facts(replica)["args"] == ["wait"]
    titles = [" ".join(psutil.Process(pid).cmdline()).strip() for pid in (zygote.pid, replica.pid)]
    assert titles == ["celerity: spare", "celerity: m-1"]


@pytest.mark.parametrize(
    ("args", "code", "last"),
    [(["end", "0"], 0, None), (["end", "7"], 7, None), (["say"], 1, "weights"), (["break"], 1, "broken")],
)
def test_how_a_fork_ended_is_known(
    launcher: DetachedLauncher, wanted: Spare, args: list[str], code: int, last: str | None
) -> None:
    ready(launcher, wanted)
    replica = launcher.start(command(wanted, *args), Resources())
    wait_until(lambda: replica.exit_code() is not None, "exit")
    assert replica.exit_code() == code
    assert last is None or last in replica.tail(1)[0]
    replica.forget()
    assert launcher.list() == ()


def test_a_fork_that_is_killed_or_told_to_end_does(launcher: DetachedLauncher, wanted: Spare) -> None:
    ready(launcher, wanted)
    killed, told = (launcher.start(command(wanted, "wait", name=f"m-{number}"), Resources()) for number in (1, 2))
    facts(told)
    killed.kill()
    told.terminate()
    wait_until(lambda: killed.exit_code() == -signal.SIGKILL, "the killed one to end")
    wait_until(lambda: told.exit_code() == -signal.SIGTERM, "the other to end")


def test_forks_outlive_their_zygote_and_starts_do_without_it(launcher: DetachedLauncher, wanted: Spare) -> None:
    zygote = ready(launcher, wanted)
    forked = launcher.start(command(wanted, "wait", name="m-1"), Resources())
    os.kill(zygote.pid, signal.SIGKILL)
    executed = launcher.start(command(wanted, "wait", name="m-2"), Resources())
    assert facts(executed)["imported_by"] == executed.pid
    assert forked.exit_code() is None
    forked.kill()
    wait_until(lambda: forked.exit_code() is not None, "exit")
    assert forked.exit_code() == EXIT_UNSEEN
    # One that had been ready is replaced at once.
    assert ready(launcher, wanted).pid != zygote.pid


def test_a_zygote_that_hangs_delays_a_start_and_no_more(launcher: DetachedLauncher, wanted: Spare) -> None:
    zygote = ready(launcher, wanted)
    os.kill(zygote.pid, signal.SIGSTOP)
    replica = launcher.start(command(wanted, "wait"), Resources())
    assert facts(replica)["imported_by"] == replica.pid
    assert gone(zygote.pid)
    assert [it.name for it in launcher.list()] == ["m-1"]


def test_a_zygote_of_other_code_is_not_used(launcher: DetachedLauncher, wanted: Spare, tmp_path: Path) -> None:
    zygote = ready(launcher, wanted)
    spare(tmp_path, AHEAD + "\n")
    os.utime(tmp_path / "ahead.py", (1, 1))
    replica = launcher.start(command(wanted, "wait"), Resources())
    assert facts(replica)["imported_by"] == replica.pid
    assert gone(zygote.pid)
    assert ready(launcher, wanted).pid != zygote.pid


def test_a_zygote_of_other_settings_is_not_used_and_ends(launcher: DetachedLauncher, wanted: Spare) -> None:
    zygote = ready(launcher, wanted)
    changed = Spare(wanted.engine, wanted.modules, (*wanted.env, ("CELERITY_LOG_LEVEL", "DEBUG")))
    replica = launcher.start(command(changed, "wait"), Resources())
    assert facts(replica)["imported_by"] == replica.pid
    launcher.prepare([changed])
    assert gone(zygote.pid)
    launcher.prepare([])
    assert launcher._zygotes.ready(changed) is None


def test_who_has_a_thread_is_never_forked(launcher: DetachedLauncher, tmp_path: Path) -> None:
    thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    threaded = spare(tmp_path, f"{thread}\n{AHEAD}")
    launcher.prepare([threaded])
    log = tmp_path / "logs" / "spare-test.log"
    wait_until(lambda: log.exists() and "1 threads" in log.read_text(), "the zygote to say so")
    replica = launcher.start(command(threaded, "wait"), Resources())
    assert facts(replica)["drawn"] is None


def test_what_cannot_be_imported_is_not_tried_again_at_once(tmp_path: Path) -> None:
    now = 0.0
    broken = spare(tmp_path, "import no_such_module")
    zygotes = Zygotes(tmp_path, clock=lambda: now)
    log = tmp_path / "spare-test.log"

    def none_runs() -> bool:
        zygotes.prepare([broken])
        return not zygotes._running

    assert not none_runs()
    wait_until(none_runs, "the first to end")
    assert log.read_text().count("no spare: No module named") == 1
    now = 61.0
    assert not none_runs()
    wait_until(none_runs, "the second to end")
    assert log.read_text().count("no spare: No module named") == 2
    zygotes.close()


def test_what_takes_long_to_import_waits_for_those_who_import_it_now(tmp_path: Path) -> None:
    now = 0.0
    costly = dataclasses.replace(spare(tmp_path), engine="vllm")
    zygotes = Zygotes(tmp_path, clock=lambda: now)

    def runs(at: float) -> bool:
        nonlocal now
        now = at
        zygotes.prepare([costly])
        return bool(zygotes._running)

    assert not runs(0.0)
    assert not runs(2.0)
    zygotes.executed(costly)
    now = 10.0
    # Whoever comes later does not put it off once more.
    zygotes.executed(costly)
    assert not runs(16.0)
    assert runs(17.0)
    zygotes.close()


def test_a_zygote_ends_with_its_launcher_and_a_fork_does_not(launcher: DetachedLauncher, wanted: Spare) -> None:
    zygote = ready(launcher, wanted)
    replica = launcher.start(command(wanted, "wait"), Resources())
    launcher.close()
    assert gone(zygote.pid)
    # It puts itself on record, a moment after it was forked.
    wait_until(DetachedLauncher(launcher._site).list, "the fork to be on record")
    (adopted,) = DetachedLauncher(launcher._site).list()
    assert (adopted.pid, adopted.exit_code()) == (replica.pid, None)


def test_an_agent_that_is_killed_leaves_its_forks_and_no_zygote(site: Site, tmp_path: Path) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", AGENT, site.to_json(), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert agent.stdout is not None
    zygote = int(agent.stdout.readline())
    agent.kill()
    agent.communicate()
    wait_until(lambda: gone(zygote), "the zygote to end")
    found = DetachedLauncher(site)
    wait_until(found.list, "the replica to be on record")
    assert [it.exit_code() for it in found.list()] == [None]


def test_a_fork_that_finds_its_supervisor_gone_ends_and_is_on_no_record(
    launcher: DetachedLauncher, site: Site, wanted: Spare, tmp_path: Path
) -> None:
    record, log = Roster(site.replicas).path("m-1"), tmp_path / "m-1.log"
    site.replicas.mkdir(exist_ok=True)
    env = {**os.environ, **dict(wanted.env), "CELERITY_REPLICA_ID": "m-1"}
    order = Order(
        program="program",
        args=["wait"],
        env=env,
        cwd=str(tmp_path),
        record=str(record),
        facts="{}",
        site=site.to_json(),
    )
    zygote = ready(launcher, wanted)
    with log.open("ab") as file:
        pid = zygote.fork(order, file.fileno())
    wait_until(lambda: gone(pid), "the fork to end")
    assert "has ended" in log.read_text()
    assert not record.exists()
    assert zygote.code_of(pid) == 75
