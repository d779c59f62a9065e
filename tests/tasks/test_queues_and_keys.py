from __future__ import annotations

from kombu.transport.redis import Channel

import celeryconfig
from tasks import keys
from tasks.queues import PRIORITY_STEPS, Priority, model_queue, queue_list


def test_the_list_of_a_priority_is_where_kombu_looks() -> None:
    for priority in Priority:
        theirs = model_queue("m") if priority == 0 else f"m{Channel.sep}{priority.value}".replace("m", "model.m", 1)
        assert queue_list(model_queue("m"), priority) == theirs


def test_every_side_has_the_same_priority_steps() -> None:
    assert celeryconfig.broker_transport_options["priority_steps"] == list(PRIORITY_STEPS)
    assert {priority.value for priority in Priority} == set(PRIORITY_STEPS)


def test_every_key_stands_in_the_table() -> None:
    assert keys.__doc__
    of_ours = (keys.request, keys.stream, keys.wake, keys.gateway, keys.control, keys.replica, keys.node)
    of_kombu = (keys.unacked, keys.unacked_index, keys.unacked_mutex)
    for build in of_ours + of_kombu:
        prefix = build("")
        assert f"| {prefix}{{" in keys.__doc__
    for name in keys.FOR_EVER:
        assert f"| {name} " in keys.__doc__
