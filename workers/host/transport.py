"""kombu's Redis transport, made to lose nothing and to survive whatever it is sent.

Stock kombu 5.7 ends the worker on a message that is not JSON, and when Redis refuses a
write because it is full: the message has left the queue by then, and is lost. It forgets
an acknowledgement that fails. Here a message that was popped stays in the `Ledger`
until Redis has it among the unacknowledged, what was settled stays there until Redis
knows, and rubbish costs one line in the log. Overrides private names of kombu 5.7, which
is why that version is pinned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import Empty
from typing import Any

import redis
from kombu.transport import redis as stock
from kombu.transport import virtual

from workers.host.appetite import Pull
from workers.host.exchange import Exchange, Taken, kept
from workers.host.ledger import Ledger
from workers.host.task_message import plain_body, task_message

log = logging.getLogger(__name__)

# How long Redis holds a BRPOP that finds nothing. One whose machine is gone takes a message for so long.
POP_S = 4
_POP_WITHOUT_END_S = 1
_SUBCLIENTS_EVERY_S = 30.0
# A connection that was idle for so long is tried before it is used.
_PING_AFTER_S = 30

# The connection is gone, as opposed to a command that was answered with an error.
LOST = (OSError, redis.ConnectionError, redis.TimeoutError)

# So many messages come in one round trip; their tasks begin before the hub does anything else.
_AT_ONCE = 8


class Message(virtual.Message):
    """Read by orjson where that makes no difference."""

    def _decode(self) -> Any:
        plain = None
        if self.accept is None or self.content_type in self.accept:
            plain = plain_body(self.body, self.content_type)
        return super()._decode() if plain is None else plain


class QoS(stock.QoS):
    """kombu's bookkeeping of unacknowledged messages, by way of the ledger. Asks Redis nothing, and never raises."""

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)
        self.channel.ledger.held.add(delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, requeue=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, requeue=requeue)

    def _settle(self, delivery_tag: str, *, requeue: bool) -> None:
        self.channel.ledger.settle(delivery_tag, requeue=requeue)
        virtual.QoS.ack(self, delivery_tag)
        if self.channel.prompt:
            self.channel.settle()


class Channel(stock.Channel):
    """One channel of the consumer's connection."""

    QoS = QoS
    Message = Message
    _brpop_sent_at: Any = None

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.ledger: Ledger = connection.ledger
        self.prompt = False
        """Whether Redis is told of each message at once: no hub turns any more that would tell it."""
        self._shaky = False
        self._refused = False
        self._popping: tuple[Any, int | None] = (None, None)  # a socket, and the number Redis knows it by
        self._asked: tuple[int, ...] = ()  # the priority steps of the pending BRPOP
        self._ending = False
        self._more = False  # whether there may have been more than was taken last
        self._exchanging: Exchange | None = None
        super().__init__(connection, **kwargs)

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # With the interval that a BRPOP is watched by, a PING would go before each.
        params: dict[str, Any] = super()._connparams(asynchronous)
        return params | {"health_check_interval": _PING_AFTER_S}

    def accepting(self) -> bool:
        """Say whether another message may be taken: Redis took note of the last one."""
        return not self._refused and not self.ledger.handed

    def let_go(self) -> None:
        """Make closing the channel neither read from its dead connection nor give anything back.

        The tasks that came by it run on; what they settle is paid by the next channel.
        """
        self._in_poll = False
        self.do_restore = False
        self._shaky = True

    def settle(self) -> None:
        """Tell Redis what was settled, unless the connection has just failed to."""
        if self._shaky or self._refused or not self.ledger.settled:
            return
        try:
            self._exchange()
            self._put_back()
        except (redis.RedisError, OSError):
            # Waiting again for every further acknowledgement would hold up the hub.
            self._shaky = True

    def tend(self) -> None:
        """Make good what could not be told. Raises when the connection is lost."""
        self._shaky = False
        self._refused = False
        try:
            if self.ledger.untold:
                self._exchange()
            self._recover()
            self._put_back()
        except redis.ResponseError as error:
            self._refuse(error)

    def give_up(self) -> None:
        """Put back all this worker still has, at its end. Raises when Redis does not take it."""
        ledger = self.ledger
        self._exchanger(done=ledger.done, in_hand=ledger.handed, now=time.time())
        ledger.handed.clear()
        ledger.forget(ledger.done)
        self._put_back()
        with self.conn_or_acquire() as client:
            for tag in self._noted(client):
                # Others may keep theirs under the same key.
                if ledger.alone or tag in ledger.held:
                    self.qos.restore_by_tag(tag)

    def end_pop(self) -> None:
        """Have Redis answer a pending BRPOP now. Whether with a message or without one is read as ever."""
        _, number = self._popping
        if number is None:
            self._ending = True  # as it will by itself, within a second
            return
        with self.conn_or_acquire() as client:
            # Not when it was answered already, or Redis has yet to read it.
            self._ending = bool(client.execute_command("CLIENT", "UNBLOCK", number))

    def widen(self) -> None:
        """Take from a list that has become welcome while a BRPOP on others is pending.

        That one goes on: it has found its own lists empty, so nothing of theirs is passed
        over. What it pops at the same moment is one message more than the order said, for
        which the seats that bulk work leaves free are there; and of a list that is no
        longer welcome it takes one message at most. Only when there is nothing to take
        now is it ended, so that the next one waits for all. So a bulk request that
        follows another into its seat costs no BRPOP.
        """
        while self._in_poll and len(self._asked) < len(self.priority_steps) and not self._ending and self.accepting():
            pull = self.connection.pull()
            fresh = [step for step in pull.order if step not in self._asked]
            if not fresh or stock._socket_readable(self.client.connection._sock):
                return  # what is there goes first, and the hub comes back here
            if not self._exchange(fresh, pull.most) and self.accepting():
                self.end_pop()
                return

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **kwargs: Any
    ) -> Any:
        def guarded(message: Any) -> None:
            try:
                callback(message)
            except LOST:
                raise
            except Exception as error:  # noqa: BLE001 - process boundary: anybody can write to a queue
                _dropped(queue, type(error).__name__)
                message.ack()

        return super().basic_consume(queue, no_ack, guarded, consumer_tag, **kwargs)

    def maybe_refresh_binding_expiry(self) -> None:
        try:
            super().maybe_refresh_binding_expiry()
        except redis.ResponseError as error:
            log.debug("bindings not refreshed: %r", error)  # every second, and kombu would show the stack

    def _brpop_start(self, timeout: float | None = None) -> None:
        connection = self.client.connection
        if connection._sock is not None and connection._sock is not self._popping[0]:
            # Once a connection: while a BRPOP is pending it can be asked nothing.
            connection.send_command("CLIENT", "ID")
            try:
                self._popping = (connection._sock, connection.read_response())
            except redis.ResponseError:  # an access list forbids it
                self._popping = (connection._sock, None)
        if not (queues := self._queue_cycle.consume(len(self.active_queues))):
            return
        if self._more or self.ledger.pressing:
            # What is there comes with the news of what is done; only who finds nothing waits.
            pull = self.connection.pull()
            self._exchange(pull.order, pull.most)
            if not self.qos.can_consume():
                return
        # kombu asks for all steps, in their own order.
        self._asked, self._ending = self.connection.pull().order, False
        keys = [self._q_for_pri(queue, step) for step in self._asked for queue in queues]
        self._in_poll, self._brpop_sent_at = connection, time.monotonic()
        if timeout is None:
            # One that cannot be ended when the worker drains ends soon by itself.
            timeout = self.brpop_timeout if self._popping[1] is not None else _POP_WITHOUT_END_S
        connection.send_command("BRPOP", *keys, timeout)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except redis.ResponseError as error:
            self._refuse(error)
            raise Empty from error
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        if not reply:
            raise Empty
        queue = self._queue_of(reply[0].decode())
        self._queue_cycle.rotate(queue)
        self._take_in(queue, reply[1])
        pull = self.connection.pull()
        self._exchange(pull.order, pull.most)
        return True

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        try:
            return super()._deliver_fanout_message(message, exchange)
        except LOST:
            raise
        except Exception as error:
            _dropped(exchange, type(error).__name__)
            raise Empty from error

    def _take_in(self, queue: str, item: bytes) -> None:
        """Hand to Celery what was popped. Its task need not wait until Redis has noted its message."""
        if (message := task_message(item)) is not None:
            self.ledger.handed[message["properties"]["delivery_tag"]] = kept(item, queue)
        self._hand_over([(queue, message)])

    def _exchange(self, steps: Sequence[int] = (), most: int = 0) -> int:
        """Tell Redis what was settled and handed over, take up to `most` from the lists of `steps` for Celery.

        Returns how many those were.
        """
        ledger, done, handed = self.ledger, self.ledger.done, dict(self.ledger.handed)
        wanted = max(0, min(most, _AT_ONCE)) if steps else 0
        lists = [(self._q_for_pri(queue, step), queue) for step in steps for queue in self.active_queues]
        try:
            taken = self._exchanger(
                done=done, in_hand=handed, most=wanted, lists=lists if wanted else (), now=time.time()
            )
        except redis.ResponseError as error:
            # Some may have been taken all the same, here as below.
            ledger.unsure = ledger.unsure or wanted > 0
            self._refuse(error)
            return 0
        except LOST:
            ledger.unsure = ledger.unsure or wanted > 0
            raise
        self._accepted()
        ledger.forget(done)
        ledger.handed.clear()
        if steps:
            self._more = len(taken) == wanted
        self._hand_over([(self._queue_of(it.list), self._read(it)) for it in taken])
        return len(taken)

    @property
    def _exchanger(self) -> Exchange:
        if self._exchanging is None:
            self._exchanging = Exchange(self.pool, self.unacked_key, self.unacked_index_key)
        return self._exchanging

    def _read(self, taken: Taken) -> dict[str, Any] | None:
        """Return the message, under the tag by which it is kept; None for rubbish, which is kept no longer."""
        message = task_message(taken.item) if taken.tag else None
        if message is not None:
            message["properties"]["delivery_tag"] = taken.tag
        elif taken.tag:
            self.ledger.settle(taken.tag, requeue=False)
        return message

    def _hand_over(self, messages: Iterable[tuple[str, dict[str, Any] | None]]) -> None:
        """Give Celery what came from these queues; None is rubbish."""
        try:
            for queue, message in messages:
                if message is None:
                    _dropped(queue, "not a task")
                else:
                    self.connection._deliver(message, queue)
        except LOST:
            self.ledger.unsure = True  # the others are noted, and nobody's
            raise

    def _put_back(self) -> None:
        for tag in self.ledger.rejected:
            self.qos.restore_by_tag(tag)
            self.ledger.forget([tag])

    def _recover(self) -> None:
        """Put back what was taken in an exchange whose answer never came."""
        ledger = self.ledger
        if ledger.unsure and ledger.alone:
            with self.conn_or_acquire() as client:
                for tag in self._noted(client):
                    if tag not in ledger.known:
                        self.qos.restore_by_tag(tag)
        ledger.unsure = False

    def _noted(self, client: Any) -> list[str]:
        """Return the tags of what is unacknowledged, the youngest first: what is put back last stands at the front."""
        return [tag.decode() for tag in client.zrange(self.unacked_index_key, 0, -1, desc=True)]

    def _accepted(self) -> None:
        if self.ledger.refused:
            self.ledger.refused = False
            log.info("redis takes writes again", extra={"event": "redis_accepts"})

    def _refuse(self, error: redis.ResponseError) -> None:
        self._refused = True
        if not self.ledger.refused:
            self.ledger.refused = True
            log.warning(
                "redis refuses writes; no message is taken until it takes them again",
                extra={"event": "redis_refuses", "reason": str(error).rpartition("caused error: ")[2]},
            )

    def _queue_of(self, key: str) -> str:
        return key.rsplit(self.sep, 1)[0]


class Poller(stock.MultiChannelPoller):
    """Looks at every turn of the hub whether more lists have become welcome, and what Redis must be told at once.

    What was merely answered is told with the next message, or within half a second (`guards.Tend`).
    """

    _subclients_at = float("-inf")

    def __init__(self) -> None:
        self.read_already: Mapping[int, Any] = {}
        """What the hub reads, by its number."""
        super().__init__()

    @property
    def fds(self) -> dict[int, Any]:
        # At every turn kombu has the hub read them all anew, and the kernel refuse it.
        return {fd: channel for fd, channel in super().fds.items() if fd not in self.read_already}

    def maybe_check_subclient_health(self) -> None:
        # By the interval that a BRPOP is watched with it is asked far more often than what is no request's needs.
        now = time.monotonic()
        if now - self._subclients_at >= _SUBCLIENTS_EVERY_S:
            self._subclients_at = now
            super().maybe_check_subclient_health()

    def on_poll_start(self) -> None:
        super().on_poll_start()
        for channel in self._channels:
            if channel.ledger.pressing:
                channel.settle()
            channel.widen()


class Transport(stock.Transport):
    """Of a connection that carries a `ledger`, and says by `pull` what is to be taken."""

    Channel = Channel
    brpop_timeout = POP_S
    cycle: Any = None

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.ledger: Ledger = client.ledger
        self.pull: Callable[[], Pull] = client.pull
        super().__init__(client, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.read_already = loop.readers
        super().register_with_event_loop(connection, loop)


def _dropped(queue: str, reason: str) -> None:
    # Not a word of what it said: it may be somebody's prompt.
    log.warning("message dropped", extra={"event": "message_dropped", "queue": queue, "reason": reason})
