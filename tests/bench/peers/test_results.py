"""What is said of measured rounds: reports, ratios, goals and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.peers import client, documents
from tests.bench.peers.contender import Contender, Spent
from tests.bench.peers.goals import BEST_ROUTER, GOALS, Goal, judged
from tests.bench.peers.measure import result
from tests.bench.peers.results import Case, Results, Round, Spread, difference, ratio
from tests.bench.peers.scenarios import BLOCKS

CASE = Case("stub", "paced-64")
ELSEWHERE = Case("ray", "paced-64")
ABOUT = {
    "date": "2026-11-21",
    "processor": "a processor",
    "cores": 2,
    "python": "3.11.7",
    "rounds": 3,
    "seconds": 3.0,
    "load_before": 0.1,
    "versions": {"litellm": "1.0"},
}
REPORT: dict[str, Any] = {
    "stream": True,
    "tokens": 64,
    "requests": 190,
    "answered_ever": 200,
    "errors": {"503 overloaded": 2, "cannot connect": 1},
    "wall_s": 2.0,
    "client_cpu_s": 0.2,
    "client_busy": 0.1,
    "requests_per_s": 95.0,
    "tokens_per_s": 6080.0,
    "ttft_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "mean": 1.1},
    "gap_ms": None,
    "e2e_ms": {"p50": 130.0, "p95": 131.0, "p99": 132.0, "mean": 130.1},
}


def a_round(contender: str, number: int, **values: float) -> Round:
    return Round(case=CASE, contender=contender, number=number, values={"errors": 0.0, **values})


def a_run(*rounds: Round) -> Results:
    return Results(about=dict(ABOUT), rounds=list(rounds))


class TestReport:
    def test_figures_are_named_and_what_there_is_not_is_left_out(self) -> None:
        found = client.values(REPORT)
        assert found["errors"] == 3
        assert (found["requests_per_s"], found["ttft_p99_ms"], found["e2e_p50_ms"]) == (95.0, 3.0, 130.0)
        assert "gap_p50_ms" not in found

    def test_streamed_answers_are_counted_by_their_tokens_and_whole_ones_by_themselves(self) -> None:
        assert client.values(REPORT | {"requests_per_s": 0.0})["answers_per_s"] == 95.0
        assert client.values(REPORT | {"stream": False, "tokens": 1, "requests_per_s": 90.0})["answers_per_s"] == 90.0

    def test_cost_is_shared_among_all_answers_also_those_outside_the_window(self) -> None:
        before = Spent({("gateway", 1): 1.0, ("redis", 2): 5.0}, {}, 1000)
        after = Spent({("gateway", 1): 1.4, ("redis", 2): 5.1, ("gateway", 3): 0.2}, {"gateway": 90.0}, 401_000)
        ours = Contender("celerity", "http://localhost", dict, redis="unix:///nowhere")
        found = result(CASE, ours, 1, REPORT, before=before, after=after)
        assert found.cpu_ms_per_answer == pytest.approx({"gateway": 3.0, "redis": 0.5})
        assert found.values["cpu_ms_per_answer"] == pytest.approx(3.5)
        assert found.values["redis_bytes_per_answer"] == 2000


class TestComparing:
    def test_rounds_are_compared_with_their_neighbours(self) -> None:
        run = a_run(
            *(a_round("celerity", number, per_s=value) for number, value in enumerate((10, 40, 30))),
            *(a_round("litellm", number, per_s=value) for number, value in enumerate((10, 20, 10))),
        )
        assert run.compared(CASE, "celerity", "litellm", "per_s", how=ratio) == Spread(2, 1, 3)
        assert run.compared(CASE, "celerity", "litellm", "per_s", how=difference) == Spread(20, 0, 20)

    def test_a_round_without_its_neighbour_says_nothing(self) -> None:
        run = a_run(a_round("celerity", 1, per_s=10), a_round("litellm", 2, per_s=10))
        assert run.compared(CASE, "celerity", "litellm", "per_s", how=ratio) is None

    def test_nor_does_one_in_which_the_other_had_no_answer(self) -> None:
        run = a_run(
            *(a_round("celerity", number, per_s=100) for number in (1, 2)),
            *(a_round("litellm", number, per_s=value) for number, value in ((1, 0), (2, 50))),
        )
        assert run.compared(CASE, "celerity", "litellm", "per_s", how=ratio) == Spread(2, 2, 2)

    def test_the_same_scenario_of_another_block_is_another_case(self) -> None:
        run = a_run(a_round("celerity", 1, per_s=10), replace(a_round("celerity", 1, per_s=3), case=ELSEWHERE))
        assert run.seen(CASE, "celerity", "per_s") == Spread(10, 10, 10)

    def test_results_survive_the_file(self, tmp_path: Path) -> None:
        run = a_run(a_round("celerity", 1, per_s=10))
        run.failures["stub: litellm"] = "no such release"
        run.write(tmp_path / "run.json")
        assert Results.read(tmp_path / "run.json") == run


class TestGoals:
    MORE = Goal(what="answers/s", case=CASE, metric="per_s", against=BEST_ROUTER, at_least=1.0)
    LESS = Goal(what="first token", case=CASE, metric="ms", against=BEST_ROUTER, how=difference, at_most=1.5)
    RUN = a_run(
        a_round("celerity", 1, per_s=100, ms=3.0),
        a_round("sglang-router", 1, per_s=110, ms=40.0),
        a_round("vllm-router", 1, per_s=80, ms=2.0),
    )

    def test_the_best_router_is_the_best_at_what_is_looked_at(self) -> None:
        assert judged(self.MORE, self.RUN).against == "sglang-router"
        assert judged(self.LESS, self.RUN).against == "vllm-router"

    def test_the_median_decides(self) -> None:
        assert not judged(self.MORE, self.RUN).met
        assert judged(self.LESS, self.RUN).met

    def test_what_was_not_measured_is_not_met(self) -> None:
        verdict = judged(self.MORE, a_run(a_round("celerity", 1, per_s=100)))
        assert verdict.seen is None
        assert not verdict.met

    @pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.case.scenario}-{goal.metric}-{goal.against}")
    def test_every_goal_is_about_a_scenario_that_runs_with_who_it_is_against(self, goal: Goal) -> None:
        (block,) = (block for block in BLOCKS if block.name == goal.case.block)
        assert goal.case.scenario in {scenario.name for scenario in block.scenarios}
        assert goal.against == BEST_ROUTER or goal.against in block.contenders
        assert (goal.against, goal.case.scenario) not in block.left_out


class TestPage:
    def test_goals_come_first_and_who_is_missing_is_named(self) -> None:
        times = {"answers_per_s": 50.0, "tokens_per_s": 3200.0, "client_busy": 0.1, "e2e_p50_ms": 130.0}
        run = a_run(a_round("celerity", 1, **times), a_round("vllm-router", 1, **times | {"answers_per_s": 40.0}))
        run.failures["stub: litellm"] = "pip said at length:\nno such release"
        page = documents.page(run)
        assert page.index("## Goals") < page.index("## Not there") < page.index("## A stub engine")
        assert "| vllm-router | ≥ 1 × | 1.05 × | 1.25 (1.25–1.25) × |  | yes |" in page
        assert "- stub: litellm: no such release\n" in page
        assert "### Streamed, 64 tokens at 2 ms, 64 at a time" in page


class TestScenarios:
    def test_names_choose_and_a_block_without_them_runs_nothing(self) -> None:
        stub, vllm, _ = BLOCKS
        assert [it.name for it in stub.chosen(quick=False, names=["short-64"])] == ["short-64"]
        assert vllm.chosen(quick=True, names=["short-64"]) == []

    @pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
    def test_a_quick_run_is_a_part_of_the_whole(self, block: Any) -> None:
        quick = block.chosen(quick=True)
        assert len(quick) < len(block.chosen(quick=False))
        assert [it.name for it in quick] == list(block.quick)

    def test_who_is_left_out_of_a_quick_run_is_asked_in_a_whole_one(self) -> None:
        stub = BLOCKS[0]
        (scenario,) = stub.chosen(quick=True, names=["paced-64"])
        assert stub.asks("litellm", scenario, quick=False)
        assert not stub.asks("litellm", scenario, quick=True)
        assert stub.asks("celerity", scenario, quick=True)

    def test_whoever_is_left_out_exists(self) -> None:
        for block in BLOCKS:
            names = {scenario.name for scenario in block.scenarios}
            for contender, scenario in block.left_out | block.left_out_quick:
                assert contender in block.contenders
                assert scenario in names
