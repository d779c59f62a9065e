"""What is asked of the contenders, and which of them stand side by side."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tests.bench.peers.contenders import DEMO, INSTANT, PACED

TOKENS = 64
STEPS = (1, 8, 32, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of load: so many requests at a time, or so many a second whatever becomes of them."""

    name: str
    title: str
    model: str
    stream: bool
    tokens: int
    concurrency: int | None = None
    rate: float | None = None
    ignore_eos: bool = False
    """Whether a real model is to say as many tokens as are asked for."""


def _paced(concurrency: int) -> Scenario:
    title = f"streamed, {TOKENS} tokens at 2 ms, {concurrency} at a time"
    return Scenario(
        name=f"paced-{concurrency}", title=title, model=PACED, stream=True, tokens=TOKENS, concurrency=concurrency
    )


def _open(rate: int) -> Scenario:
    title = f"streamed, {TOKENS} tokens at 2 ms, {rate} requests a second by chance"
    return Scenario(name=f"open-{rate}", title=title, model=PACED, stream=True, tokens=TOKENS, rate=rate)


def _unpaced(concurrency: int) -> Scenario:
    title = f"streamed, {TOKENS} tokens unpaced, {concurrency} at a time"
    return Scenario(
        name=f"unpaced-{concurrency}", title=title, model=INSTANT, stream=True, tokens=TOKENS, concurrency=concurrency
    )


def _short(concurrency: int) -> Scenario:
    title = f"one-token answers, {concurrency} at a time"
    return Scenario(
        name=f"short-{concurrency}", title=title, model=INSTANT, stream=False, tokens=1, concurrency=concurrency
    )


def _demo(concurrency: int, *, stream: bool) -> Scenario:
    tokens = TOKENS if stream else 1
    what = f"streamed, {TOKENS} tokens" if stream else "one-token answers"
    return Scenario(
        name=f"vllm-{'stream' if stream else 'short'}-{concurrency}",
        title=f"{what} of the demo model, {concurrency} at a time",
        model=DEMO,
        stream=stream,
        tokens=tokens,
        concurrency=concurrency,
        ignore_eos=stream,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Contenders that run at the same time, and what each of them is asked in turn."""

    name: str
    contenders: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    quick: tuple[str, ...]
    """The scenarios of a quick run."""
    left_out: frozenset[tuple[str, str]] = frozenset()
    """Contenders with the scenarios that would take long and say nothing more."""
    left_out_quick: frozenset[tuple[str, str]] = frozenset()
    """Further ones in a quick run."""

    def chosen(self, *, quick: bool, names: Collection[str] = ()) -> list[Scenario]:
        """Return what to run: the scenarios that are named, else all of them or the quick ones."""
        wanted = names or (self.quick if quick else [scenario.name for scenario in self.scenarios])
        return [scenario for scenario in self.scenarios if scenario.name in wanted]

    def asks(self, contender: str, scenario: Scenario, *, quick: bool) -> bool:
        pair = (contender, scenario.name)
        return pair not in self.left_out and not (quick and pair in self.left_out_quick)


_STUB = (*map(_paced, STEPS), _open(100), *map(_unpaced, (64, 256)), *map(_short, STEPS))
# What a second process of LiteLLM is looked at for.
_LIMITS = ("unpaced-64", "short-64")


def _pairs(contender: str, *scenarios: str) -> frozenset[tuple[str, str]]:
    return frozenset((contender, scenario) for scenario in scenarios)


BLOCKS = (
    Block(
        name="stub",
        contenders=("stub", "sglang-router", "vllm-router", "litellm", "litellm-2", "celerity", "celerity-2"),
        scenarios=_STUB,
        quick=("paced-1", "paced-32", "paced-64", "unpaced-64", "short-64"),
        # LiteLLM is at its limit at 64 already: 256 streams take half a minute a round, and 100 a second never end.
        # A second process of a gateway cannot matter to a few requests.
        left_out=_pairs("litellm", "paced-8", "paced-256", "open-100", "unpaced-256", "short-8")
        | _pairs("litellm-2", *(it.name for it in _STUB if it.name not in _LIMITS))
        | _pairs("celerity-2", "paced-1", "paced-8", "short-1", "short-8"),
        left_out_quick=_pairs("litellm", "paced-1", "paced-32", "paced-64")
        | _pairs("litellm-2", *_LIMITS)
        | _pairs("celerity-2", "paced-32", "paced-64", "unpaced-64", "short-64"),
    ),
    Block(
        name="vllm",
        contenders=("vllm", "celerity"),
        scenarios=(*(_demo(it, stream=True) for it in (1, 32, 64)), *(_demo(it, stream=False) for it in (1, 32, 64))),
        quick=("vllm-stream-64", "vllm-short-64"),
    ),
    Block(
        name="ray",
        contenders=("celerity", "ray-serve"),
        scenarios=(_paced(1), _paced(64), _unpaced(64), _short(64)),
        quick=(),
    ),
)
