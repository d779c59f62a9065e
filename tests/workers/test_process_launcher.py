"""Real processes: what ends them, and what must not be left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from workers.launcher.base import Command
from workers.launcher.output import ROTATE_AT_BYTES, rotate
from workers.launcher.process import ProcessLauncher

# A process that ignores SIGTERM and has a child that does the same; it says both pids.
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print("pids", os.getpid(), child.pid, flush=True)
signal.pause()
"""
POLITE = "import os, signal; print('pids', os.getpid(), flush=True); signal.pause()"
# A launcher that starts both and says so, to be killed from outside.
LAUNCHER = """
import signal, sys
from pathlib import Path
from tests.waiting import wait_until
from workers.launcher.base import Command
from workers.launcher.process import ProcessLauncher
launcher = ProcessLauncher(Path(sys.argv[1]), grace_s=0.3)
for name, code in (("stubborn", sys.argv[2]), ("polite", sys.argv[3])):
    launcher.start(Command(name=name, argv=[sys.executable, "-c", code], env={}, log=name))
print("started", flush=True)
signal.pause()
"""


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(log: Path) -> list[int]:
    words = log.read_text().split() if log.exists() else []
    return [int(word) for word in words if word.isdecimal()]


def command(code: str, **env: str) -> Command:
    return Command(name="it", argv=[sys.executable, "-c", code], env=env, log="it")


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[ProcessLauncher]:
    started = ProcessLauncher(tmp_path, grace_s=0.3)
    yield started
    started.close()


def test_output_goes_to_the_log_and_the_exit_code_is_told(launcher: ProcessLauncher, tmp_path: Path) -> None:
    process = launcher.start(command("import os, sys; print(os.environ['X']); sys.exit('gone')", X="hello"))
    wait_until(lambda: process.exit_code() is not None, "exit")
    assert process.exit_code() == 1
    assert process.tail(5) == ["hello", "gone"]
    assert process.tail(1) == ["gone"]
    assert (tmp_path / "it.log").read_text() == "hello\ngone\n"


def test_a_program_that_does_not_exist_is_an_exit_with_its_reason(launcher: ProcessLauncher) -> None:
    process = launcher.start(Command(name="x", argv=["/no/such/program"], env={}, log="x"))
    wait_until(lambda: process.exit_code() is not None, "exit")
    assert process.exit_code() == 1
    assert "No such file" in process.tail(1)[0]


def test_asking_ends_only_the_process_itself_and_the_rest_follows(launcher: ProcessLauncher, tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys;"
        "c = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "print('pids', os.getpid(), c.pid, flush=True); c.wait()"
    )
    process = launcher.start(command(code))
    wait_until(lambda: len(pids(tmp_path / "it.log")) == 2, "both up")
    leader, child = pids(tmp_path / "it.log")
    assert leader == process.pid
    process.terminate()
    wait_until(lambda: process.exit_code() is not None, "exit")
    assert process.exit_code() == -signal.SIGTERM
    wait_until(lambda: not running(child), "child gone")


def test_killing_takes_the_whole_family(launcher: ProcessLauncher, tmp_path: Path) -> None:
    process = launcher.start(command(STUBBORN))
    wait_until(lambda: len(pids(tmp_path / "it.log")) == 2, "both up")
    process.terminate()
    assert process.exit_code() is None
    process.kill()
    wait_until(lambda: process.exit_code() == -signal.SIGKILL, "exit")
    wait_until(lambda: not any(map(running, pids(tmp_path / "it.log"))), "family gone")


def test_a_killed_engine_leaves_no_semaphore(launcher: ProcessLauncher, tmp_path: Path) -> None:
    code = (
        "import multiprocessing, signal;"
        "lock = multiprocessing.get_context('spawn').Lock();"
        "print(lock._semlock.name, 'pids', flush=True); signal.pause()"
    )
    process = launcher.start(command(code))
    wait_until(lambda: "pids" in (tmp_path / "it.log").read_text(), "a semaphore")
    name = (tmp_path / "it.log").read_text().split()[0].strip("/")
    semaphore = Path("/dev/shm") / f"sem.{name}"
    assert semaphore.exists()
    process.kill()
    wait_until(lambda: process.exit_code() is not None, "exit")
    assert not semaphore.exists()


def test_closing_leaves_nobody(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path, grace_s=0.3)
    launcher.start(command(STUBBORN))
    wait_until(lambda: len(pids(tmp_path / "it.log")) == 2, "both up")
    launcher.close()
    wait_until(lambda: not any(map(running, pids(tmp_path / "it.log"))), "family gone")


def test_a_launcher_that_is_killed_leaves_nobody(tmp_path: Path) -> None:
    victim = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path), STUBBORN, POLITE],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert victim.stdout is not None
    with victim.stdout:
        assert victim.stdout.readline() == b"started\n"
        logs = [tmp_path / "stubborn.log", tmp_path / "polite.log"]
        wait_until(lambda: [len(pids(log)) for log in logs] == [2, 1], "all up")
        everyone = [pid for log in logs for pid in pids(log)]
        guards = [child.pid for child in psutil.Process(victim.pid).children()]
        assert set(pids(logs[1])) <= set(guards)
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        wait_until(lambda: not any(map(running, [*everyone, *guards])), "everyone gone, the guard too")


def test_a_guard_that_dies_is_replaced_and_knows_everyone(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path, grace_s=0.3)
    launcher.start(command(STUBBORN))
    wait_until(lambda: len(pids(tmp_path / "it.log")) == 2, "both up")
    guard = next(p for p in psutil.Process().children() if "watch" in p.cmdline())
    guard.kill()
    wait_until(lambda: guard.status() == psutil.STATUS_ZOMBIE, "guard gone")
    second = launcher.start(Command(name="b", argv=[sys.executable, "-c", POLITE], env={}, log="b"))
    wait_until(lambda: len(pids(tmp_path / "b.log")) == 1, "second up")
    # What the end of this process would do: the new guard ends both, the one it was told of included.
    launcher.guard.close()
    wait_until(lambda: second.exit_code() is not None, "second gone")
    wait_until(lambda: not any(map(running, pids(tmp_path / "it.log"))), "first gone")
    launcher.close()


def test_a_large_log_is_put_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "it.log"
    log.write_bytes(b"x" * (ROTATE_AT_BYTES + 1))
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "it.log.1").stat().st_size == ROTATE_AT_BYTES + 1
    log.write_bytes(b"x")
    rotate(log)
    assert log.exists()
