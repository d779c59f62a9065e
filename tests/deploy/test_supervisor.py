"""What is started again, what is not, and in which order everything stops."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from deploy.restarts import LONGEST_DELAY_S, MOST_CRASHES, WINDOW_S, GiveUp, Retry, after_crash
from deploy.supervisor import Phase, Service, Supervisor
from tests.deploy.fake_launcher import FakeLauncher
from workers.launcher.base import Command


def service(
    name: str, stage: int = 0, *, may_give_up: bool = False, within_s: float = 10, hastens: bool = True
) -> Service:
    numbers = itertools.count(1)
    return Service(
        name=name,
        command=lambda: Command(name=f"{name}-{next(numbers)}", argv=[name], env={}, log=name),
        stage=stage,
        stop_within_s=within_s,
        may_give_up=may_give_up,
        hastens=hastens,
    )


def stop(supervisor: Supervisor, *, hasten: Callable[[], bool] = lambda: False) -> None:
    """Stop on a clock that moves only by waiting."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    supervisor.stop(clock=lambda: now[0], wait=wait, hasten=hasten)


def test_a_first_crash_is_followed_by_a_quick_start() -> None:
    assert after_crash([100.0], now=100.0, may_give_up=True) == Retry(101.0)


def test_each_further_crash_doubles_the_delay_up_to_a_limit() -> None:
    delays = []
    for count in range(1, 9):
        decision = after_crash([100.0] * count, now=100.0, may_give_up=False)
        assert isinstance(decision, Retry)
        delays.append(decision.at - 100.0)
    assert delays == [1, 2, 4, 8, 16, LONGEST_DELAY_S, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_a_model_that_crashes_too_often_is_given_up() -> None:
    assert after_crash([1.0] * MOST_CRASHES, now=1.0, may_give_up=True) == GiveUp(MOST_CRASHES)


def test_crashes_of_long_ago_are_forgiven() -> None:
    crashes = [0.0] * MOST_CRASHES + [WINDOW_S + 1]
    assert after_crash(crashes, now=WINDOW_S + 1, may_give_up=True) == Retry(WINDOW_S + 2)


def test_what_dies_is_started_again_after_its_delay_as_somebody_else() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    supervisor.start(service("m"))
    launcher.started[0].code = 3
    (died,) = supervisor.poll(now=10.0)
    assert (died.service, died.process, died.exit_code, died.tail) == ("m", "m-1", 3, ["one", "two"])
    assert died.next == Retry(11.0)
    assert supervisor.phase("m") is Phase.WAITING
    assert supervisor.next_start_at() == 11.0
    assert supervisor.poll(now=10.9) == []
    assert launcher.journal == ["start m-1"]
    supervisor.poll(now=11.0)
    assert launcher.journal == ["start m-1", "start m-2"]
    assert supervisor.phase("m") is Phase.RUNNING
    assert supervisor.process("m").name == "m-2"
    assert supervisor.next_start_at() is None


def test_what_is_given_up_stays_dead_and_the_others_go_on() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    supervisor.start(service("bad", may_give_up=True))
    supervisor.start(service("good"))
    now = 0.0
    for _ in range(MOST_CRASHES):
        now += 100
        supervisor.poll(now)
        next(
            process for process in launcher.started if process.name.startswith("bad") and process.code is None
        ).code = 1
        supervisor.poll(now)
    supervisor.poll(now + 1e6)
    assert supervisor.phase("bad") is Phase.GAVE_UP
    assert supervisor.phase("good") is Phase.RUNNING
    assert [line for line in launcher.journal if "bad" in line] == ["start bad-1", "start bad-2", "start bad-3"]


def test_what_runs_is_not_reported() -> None:
    supervisor = Supervisor(FakeLauncher())
    supervisor.start(service("m"))
    assert supervisor.poll(0.0) == []


def test_stages_stop_one_after_another() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    for name, stage in (("redis", 3), ("gateway", 0), ("a", 1), ("b", 1)):
        supervisor.start(service(name, stage))
    stop(supervisor)
    assert launcher.journal[4:] == ["ask gateway-1", "ask a-1", "ask b-1", "ask redis-1"]


def test_who_does_not_stop_in_time_is_killed_before_the_next_stage() -> None:
    launcher = FakeLauncher(stubborn=frozenset({"a-1"}))
    supervisor = Supervisor(launcher)
    supervisor.start(service("a", 0, within_s=2))
    supervisor.start(service("redis", 1))
    stop(supervisor)
    assert launcher.journal[2:] == ["ask a-1", "kill a-1", "ask redis-1"]


@pytest.mark.parametrize(("hastens", "expected"), [(True, 0), (False, 2.0)])
def test_a_second_request_kills_at_once_but_who_has_data_to_write(hastens: bool, expected: float) -> None:
    launcher = FakeLauncher(stubborn=frozenset({"a-1"}))
    supervisor = Supervisor(launcher)
    supervisor.start(service("a", within_s=2, hastens=hastens))
    waited: list[float] = []
    supervisor.stop(clock=lambda: sum(waited), wait=waited.append, hasten=lambda: True)
    assert launcher.started[0].code == -9
    assert sum(waited) == pytest.approx(expected + 0.5)


def test_what_waits_to_be_started_again_is_not_started_while_stopping() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    supervisor.start(service("m"))
    launcher.started[0].code = 1
    supervisor.poll(0.0)
    stop(supervisor)
    assert launcher.journal == ["start m-1"]
    assert supervisor.poll(1e6) == []
