"""What a gateway does with requests for models that are not ready, on a real Redis.

Loader and workers are played: their outlooks and replica records are written as they would.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tasks import keys
from tasks.errors import ModelLoadFailedError, PoolExhaustedError, ServingError
from tasks.gateway.cold_watch import ColdWatch
from tasks.gateway.followed import Followed
from tasks.gateway.ready_models import ReadyModels
from tasks.gateway.redis_dispatch import RedisDispatcher
from tasks.messages import Call, Endpoint, Started
from tasks.queues import LOADER_QUEUE, Priority
from tasks.records.demands import DemandStore, Memory, demand
from tasks.records.nodes import redis_time
from tasks.records.outlooks import LATEST_S, OutlookStore
from tasks.records.replicas import ReplicaRecord, ReplicaState
from tasks.requests.cold_start import NO_TERMS, Deferred, Patience, Terms
from tasks.requests.dispatch import Answer, Once
from tasks.requests.inbox import Inbox
from tasks.requests.pulse import Pulse
from tasks.requests.request_store import RequestStore, message_of
from tasks.serving.claim_store import Claim, ClaimStore, Refusal
from tasks.settings import Settings
from tests.serving_line import client_and_line
from tests.stack import RedisServer
from tests.tasks.records.test_replicas import FACTS
from tests.waiting import wait_until
from workers.placement.actions import Explanation, Outlook

pytestmark = pytest.mark.integration

LOADING = Explanation(outlook=Outlook.LOADING, text="it is being loaded", retry_after_s=9.0, progress=0.25)
NO_ROOM = Explanation(outlook=Outlook.NO_CAPACITY, text="full", retry_after_s=30.0)
FAILED = Explanation(outlook=Outlook.FAILED, text="out of memory")
INSIST = Terms(patience=Patience.INSIST)
DEFER = Terms(patience=Patience.DEFER)


def call(id_: str = "r", model: str = "new", **fields: object) -> Call:
    made = Call(id=id_, model=model, endpoint=Endpoint.CHAT, body=b"{}", stream=True, gateway="")
    return dataclasses.replace(made, **fields)  # type: ignore[arg-type]  # the tests' own fields


class Site:
    """One gateway's dispatcher, and whatever loader and workers have said."""

    def __init__(self, server: RedisServer, client: redis.Redis, folder: Path) -> None:
        self.client = client
        self.server = server
        self.dispatcher = RedisDispatcher(Settings(state_dir=folder, redis_url=server.url))
        self._outlooks = OutlookStore(client)

    def replica(self, model: str, state: ReplicaState = ReplicaState.READY, *, alive_s: float = 60.0) -> None:
        """Have a worker say how it is, and wait until the gateway has seen it."""
        facts = dataclasses.replace(FACTS, id=f"{model}-1", model=model, state=state)
        ReplicaRecord(self.client).beat(facts, frozenset())
        Pulse(self.client).beat(facts.id, alive_s)

    def is_seen(self, model: str, *, ready: bool) -> None:
        wait_until(lambda: self.dispatcher.ready(model) is ready, f"{model} to be seen")

    def says(self, model: str, explanation: Explanation) -> None:
        self._outlooks.write({model: explanation})

    def submit(self, made: Call | None = None, terms: Terms = NO_TERMS, once: Once | None = None) -> Answer:
        return self.dispatcher.submit(made or call(), max_depth=10, once=once, terms=terms)

    def waiting(self, model: str = "new") -> int:
        return int(self.client.llen(f"model.{model}"))

    @property
    def nudges(self) -> int:
        return int(self.client.llen(LOADER_QUEUE))

    def claimed(self, model: str, request_id: str = "r") -> Claim | Refusal:
        """Have a worker of `model` take what is next in its queue."""

        async def claim() -> Claim | Refusal:
            async with client_and_line(self.server.url) as (client, line):
                return await ClaimStore(client, line, f"{model}-1").claim(request_id, "token")

        assert self.client.rpop(f"model.{model}")
        return asyncio.run(claim())


@pytest.fixture
def site(server: RedisServer, client: redis.Redis, tmp_path: Path) -> Iterator[Site]:
    site = Site(server, client, tmp_path)
    yield site
    site.dispatcher.close()


def ended(answer: Answer) -> ServingError:
    """Return what the gateway ends the answer with."""
    with contextlib.closing(answer), pytest.raises(ServingError) as caught:
        while True:
            assert answer.next(10.0) is not None, "nothing was said"
    return caught.value


@pytest.mark.parametrize("state", [ReplicaState.STARTING, ReplicaState.SLEEPING, ReplicaState.DRAINING])
def test_only_a_replica_that_takes_work_makes_its_model_ready(site: Site, state: ReplicaState) -> None:
    site.replica("asleep", state)
    site.replica("dead", alive_s=-1)
    site.replica("new")
    site.is_seen("new", ready=True)
    assert not site.dispatcher.ready("asleep")
    assert not site.dispatcher.ready("dead")
    site.replica("new", alive_s=-1)
    site.is_seen("new", ready=False)


def test_a_request_for_a_cold_model_is_queued_and_the_loader_looks_at_once(site: Site) -> None:
    site.submit().close()
    assert (site.nudges, site.waiting()) == (1, 0)
    answer = site.submit(call("s"))
    assert site.waiting() == 1
    answer.close()


def test_a_request_for_a_warm_model_bothers_nobody(site: Site) -> None:
    site.replica("new")
    site.is_seen("new", ready=True)
    site.submit().close()
    assert site.nudges == 0


@pytest.mark.parametrize(
    ("explanation", "error", "retry_after_s"),
    [(NO_ROOM, PoolExhaustedError, 30.0), (FAILED, ModelLoadFailedError, None)],
)
def test_where_waiting_is_in_vain_nothing_is_queued_until_the_loader_says_so_no_more(
    site: Site, explanation: Explanation, error: type[ServingError], retry_after_s: float | None
) -> None:
    site.says("new", explanation)
    with pytest.raises(error) as caught:
        site.submit()
    assert caught.value.retry_after_s == retry_after_s
    assert (site.waiting(), site.nudges) == (0, 0)
    site.client.expire(keys.outlook("new"), keys.OUTLOOK_TTL_S - LATEST_S)
    site.submit().close()
    assert site.nudges == 1, "the next one has the loader look again"


def test_what_the_loader_said_before_the_model_was_ready_refuses_nobody(site: Site) -> None:
    site.dispatcher.ready("new")
    site.says("new", NO_ROOM)
    site.replica("new")
    site.submit().close()


@pytest.mark.parametrize(("explanation", "error"), [(NO_ROOM, PoolExhaustedError), (FAILED, ModelLoadFailedError)])
def test_who_waits_already_is_told_as_well(site: Site, explanation: Explanation, error: type[ServingError]) -> None:
    answer = site.submit()
    site.says("new", explanation)
    found = ended(answer)
    assert (type(found), found.retry_after_s) == (error, explanation.retry_after_s)
    assert site.waiting() == 0
    assert not site.client.exists(keys.request("r"))


def test_who_insists_waits_for_room_but_not_for_what_cannot_be_loaded(site: Site) -> None:
    site.says("new", NO_ROOM)
    answer, other = site.submit(terms=INSIST), site.submit(call("other", model="old"))
    site.says("old", NO_ROOM)
    assert isinstance(ended(other), PoolExhaustedError), "the gateway has looked at all who wait"
    assert answer.next(0) is None
    site.says("new", FAILED)
    assert isinstance(ended(answer), ModelLoadFailedError)


def test_what_was_taken_at_this_very_moment_goes_on(site: Site) -> None:
    answer = site.submit()
    assert isinstance(site.claimed("new"), Claim)
    # Its `Started` has been written, whether or not it was read yet.
    site.says("new", FAILED)
    other = site.submit(call("other", model="old"))
    site.says("old", FAILED)
    ended(other)
    assert answer.next(5.0) is not None
    assert answer.next(0) is None
    answer.close()


def test_a_deferred_request_is_demand_until_its_model_is_ready(site: Site) -> None:
    site.says("new", LOADING)
    with pytest.raises(Deferred) as caught:
        site.submit(terms=DEFER)
    assert (caught.value.standing.state, caught.value.standing.progress) == ("loading", 0.25)
    assert (site.waiting(), site.nudges) == (0, 1)
    demands = DemandStore(site.client)
    now = redis_time(site.client) + 10
    found = demand("new", demands.waiting(["new", "old"], now)["new"], Memory(), None)
    assert (found.interactive, found.load) == (1, False), "nobody but an operator orders a load"
    assert 10.0 <= found.interactive_oldest_s < 20.0
    assert not demands.waiting(["old"], now)["old"][Priority.INTERACTIVE].count
    assert 0 < site.client.ttl(keys.asked("new")) <= keys.ASKED_TTL_S
    demands.served(["new", "old"])
    assert not demands.waiting(["new"], now)["new"][Priority.INTERACTIVE].count


def test_who_comes_again_has_waited_since_it_came_first(site: Site) -> None:
    demands = DemandStore(site.client)
    demands.ask("new")
    first = site.client.get(keys.asked("new"))
    site.client.expire(keys.asked("new"), 5)
    demands.ask("new")
    assert site.client.get(keys.asked("new")) == first
    assert site.client.ttl(keys.asked("new")) > 5


def test_a_repetition_finds_its_answer_however_cold_the_model_is(site: Site) -> None:
    once = Once(key="k", digest="abc", ttl_s=60)
    site.submit(call("kept", keep_s=60), once=once).close()
    site.says("new", NO_ROOM)
    for terms in (NO_TERMS, DEFER):
        again = site.submit(call("again", keep_s=60), terms, once)
        assert again.request_id == "kept"
        again.close()


def test_what_waits_for_a_build_that_is_lost_goes_to_the_other_one_of_its_alias(site: Site) -> None:
    answer = site.submit(terms=Terms(stand_in="old"))
    site.replica("old")
    wait_until(lambda: site.waiting("old"), "the request to be diverted")
    assert site.waiting() == 0
    claim = site.claimed("old")
    assert isinstance(claim, Claim)
    assert claim.call.model == "old"
    assert answer.next(5.0) is not None
    answer.close()


def test_it_goes_there_too_where_the_loader_loads_the_other_one_instead(site: Site) -> None:
    answer = site.submit(terms=Terms(stand_in="old"))
    site.says("new", dataclasses.replace(NO_ROOM, instead="old"))
    wait_until(lambda: site.waiting("old"), "the request to be diverted")
    assert answer.next(0) is None
    site.says("old", FAILED)
    assert isinstance(ended(answer), ModelLoadFailedError), "it is looked after where it is now"
    assert site.waiting("old") == 0, "and is taken back from there"


def test_who_asked_for_the_build_itself_gets_no_other_one(site: Site) -> None:
    site.replica("old")
    site.is_seen("old", ready=True)
    instead = dataclasses.replace(NO_ROOM, instead="old")
    answer = site.submit()
    site.says("new", instead)
    assert isinstance(ended(answer), PoolExhaustedError)
    with pytest.raises(PoolExhaustedError):
        site.submit(call("next"))


def test_what_a_worker_has_or_had_begun_is_not_diverted(site: Site) -> None:
    store = site.dispatcher._store
    site.submit(call(keep_s=60)).close()
    assert isinstance(site.claimed("new"), Claim)
    assert not store.divert(call(), "old")
    # The worker gives it up again: first with nothing sent, then in the middle of its answer.
    site.client.hset(keys.request("r"), "replica", "")
    attempt = int(site.client.hget(keys.request("r"), "attempt") or 0)
    site.client.rpush("model.new", message_of(call(), attempt))
    site.client.xadd(keys.stream("r"), {"k": "delta", "f": "data: a\n\n"}, id=f"{attempt}-1")
    assert not store.divert(call(), "old")
    site.client.xdel(keys.stream("r"), f"{attempt}-1")
    assert store.divert(call(), "old")
    assert site.client.lrange("model.old", 0, -1) == [message_of(call(model="old"), attempt)]


def test_a_request_knows_its_place_and_how_far_the_load_is(site: Site) -> None:
    site.says("new", LOADING)
    answers = [site.submit(call(f"r{number}")) for number in range(3)]
    standings = [answer.standing() for answer in answers]
    assert [standing.position for standing in standings if standing] == [1, 2, 3]
    assert {(standing.state, standing.progress) for standing in standings if standing} == {("loading", 0.25)}
    answers[0].close()
    standing = answers[2].standing()
    assert standing is not None
    assert standing.position == 2
    assert isinstance(site.claimed("new", "r1"), Claim)
    assert answers[1].next(5.0) is not None
    assert answers[1].standing() is None, "a worker has it"
    for answer in answers[1:]:
        answer.close()


def test_bulk_work_stands_behind_whoever_is_interactive(site: Site) -> None:
    bulk = site.submit(call("bulk", priority=Priority.BULK))
    chat = site.submit(call("chat"))
    standing = bulk.standing()
    assert standing is not None
    assert (standing.position, standing.state) == (2, "queued")
    bulk.close()
    chat.close()


def test_a_kept_request_tells_its_place(site: Site) -> None:
    site.submit(call("first")).close()
    first = site.submit(call("before"))
    site.submit(call("kept", keep_s=60)).close()
    assert site.dispatcher.find("kept", "").position == 2
    first.close()
    assert isinstance(site.claimed("new", "kept"), Claim)
    assert site.dispatcher.find("kept", "").position is None


def test_the_loader_is_asked_until_it_has_said_something_lately(site: Site) -> None:
    store = RequestStore(site.client)
    store.admit(call(), gateway_id="g", max_depth=1)
    watch = ColdWatch(site.client, store, ReadyModels(site.client))
    it = Followed(inbox=Inbox("r"), call=call(), again=True)

    def nudged() -> bool:
        watch.turn([it])
        return site.client.delete(LOADER_QUEUE) == 1

    assert nudged()
    site.says("new", LOADING)
    assert not nudged()
    site.client.expire(keys.outlook("new"), keys.OUTLOOK_TTL_S - LATEST_S)
    assert nudged(), "beat is gone"
    it.inbox.take([("1-0", Started("w", 1))])
    assert not nudged(), "a worker has it"
