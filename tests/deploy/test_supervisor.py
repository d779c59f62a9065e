"""What is started again and when, and in which order everything stops."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.restarts import LONGEST_DELAY_S, WINDOW_S, after_crash
from deploy.supervisor import Service, Supervisor
from tests.deploy.fake_launcher import FakeLauncher
from workers.launcher.base import Command


def service(name: str, stage: int = 0, *, within_s: float = 10, hastens: bool = True) -> Service:
    return Service(
        name=name,
        command=Command(name=name, argv=[name], env={}, log=name),
        stage=stage,
        stop_within_s=within_s,
        hastens=hastens,
    )


def stop(supervisor: Supervisor, *, hasten: Callable[[], bool] = lambda: False, before: int | None = None) -> None:
    """Stop on a clock that moves only by waiting."""
    now = [0.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    supervisor.stop(clock=lambda: now[0], wait=wait, hasten=hasten, before=before)


def test_a_first_crash_is_followed_by_a_quick_start() -> None:
    assert after_crash([100.0], now=100.0) == 101.0


def test_each_further_crash_doubles_the_delay_up_to_a_limit() -> None:
    delays = [after_crash([100.0] * count, now=100.0) - 100.0 for count in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, LONGEST_DELAY_S, LONGEST_DELAY_S, LONGEST_DELAY_S]


def test_however_often_it_crashes_it_is_started_again() -> None:
    assert after_crash([100.0] * 100_000, now=100.0) == 100.0 + LONGEST_DELAY_S


def test_crashes_of_long_ago_are_forgiven() -> None:
    assert after_crash([0.0] * 20 + [WINDOW_S + 1], now=WINDOW_S + 1) == WINDOW_S + 2


def test_what_dies_is_started_again_after_its_delay() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    supervisor.start(service("m"))
    launcher.started[0].code = 3
    (died,) = supervisor.poll(now=10.0)
    assert (died.service, died.exit_code, died.again_at, died.tail) == ("m", 3, 11.0, ["one", "two"])
    assert supervisor.next_start_at() == 11.0
    assert supervisor.poll(now=10.9) == []
    assert launcher.journal == ["start m"]
    assert supervisor.poll(now=11.0) == []
    assert launcher.journal == ["start m", "start m"]
    assert supervisor.next_start_at() is None


def test_the_others_go_on_while_one_waits() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    supervisor.start(service("bad"))
    supervisor.start(service("good"))
    launcher.started[0].code = 1
    assert [died.service for died in supervisor.poll(0.0)] == ["bad"]
    launcher.started[1].code = 1
    assert [died.service for died in supervisor.poll(0.5)] == ["good"]
    assert supervisor.next_start_at() == 1.0


def test_what_runs_is_not_reported() -> None:
    supervisor = Supervisor(FakeLauncher())
    supervisor.start(service("m"))
    assert supervisor.poll(0.0) == []
    assert supervisor.next_start_at() is None


def test_stages_stop_one_after_another() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    for name, stage in (("redis", 3), ("gateway", 0), ("a", 1), ("b", 1)):
        supervisor.start(service(name, stage))
    stop(supervisor)
    assert launcher.journal[4:] == ["ask gateway", "ask a", "ask b", "ask redis"]


def test_it_can_be_stopped_in_two_parts() -> None:
    launcher = FakeLauncher()
    supervisor = Supervisor(launcher)
    for name, stage in (("redis", 2), ("gateway", 0), ("control", 1)):
        supervisor.start(service(name, stage))
    stop(supervisor, before=2)
    assert launcher.journal[3:] == ["ask gateway", "ask control"]
    stop(supervisor)
    assert launcher.journal[5:] == ["ask redis"]


def test_who_does_not_stop_in_time_is_killed_before_the_next_stage() -> None:
    launcher = FakeLauncher(stubborn=frozenset({"a"}))
    supervisor = Supervisor(launcher)
    supervisor.start(service("a", 0, within_s=2))
    supervisor.start(service("redis", 1))
    stop(supervisor)
    assert launcher.journal[2:] == ["ask a", "kill a", "ask redis"]


@pytest.mark.parametrize(("hastens", "expected"), [(True, 0), (False, 2.0)])
def test_a_second_request_kills_at_once_but_who_has_data_to_write(hastens: bool, expected: float) -> None:
    launcher = FakeLauncher(stubborn=frozenset({"a"}))
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
    assert launcher.journal == ["start m"]
    assert supervisor.poll(1e6) == []
