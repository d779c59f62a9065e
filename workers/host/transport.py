"""kombu's Redis transport, made to lose nothing and to survive whatever it is sent.

Stock kombu 5.7 ends the worker on a message that is not JSON, and when Redis refuses a
write because it is full: the message has left the queue by then, and is lost. It forgets
an acknowledgement that fails. Here a message that was popped stays in the `Ledger`
until Redis has it among the unacknowledged, what was settled stays there until Redis
knows, and rubbish costs one line in the log. Overrides private names of kombu 5.7, which
is why that version is pinned.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

import redis
from kombu.transport import redis as stock
from kombu.transport import virtual

from workers.host.ledger import Ledger

log = logging.getLogger(__name__)

# The connection is gone, as opposed to a command that was answered with an error.
LOST = (OSError, redis.ConnectionError, redis.TimeoutError)


def task_message(item: bytes) -> dict[str, Any] | None:
    """Return a message from a queue; None for anything that Celery could not have put there."""
    try:
        message = json.loads(item)
    except (ValueError, RecursionError):
        return None
    match message:
        case {
            "body": str(),
            "headers": {"task": str(), "id": str()},
            "properties": {
                "delivery_tag": str(),
                "delivery_info": {"exchange": str(), "routing_key": str()},
            },
        }:
            return dict(message)
    return None


class QoS(stock.QoS):
    """kombu's bookkeeping of unacknowledged messages, by way of the ledger. Settling never raises."""

    def append(self, message: Any, delivery_tag: str) -> None:
        super().append(message, delivery_tag)
        self.channel.ledger.noted()

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, requeue=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, requeue=requeue)

    def _settle(self, delivery_tag: str, *, requeue: bool) -> None:
        self.channel.ledger.settled[delivery_tag] = requeue
        virtual.QoS.ack(self, delivery_tag)
        self.channel.settle()


class Channel(stock.Channel):
    """One channel of the consumer's connection."""

    QoS = QoS

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.ledger: Ledger = connection.ledger
        self._shaky = False
        self._refused = False
        self._popping: tuple[Any, int | None] = (None, None)  # a socket, and the number Redis knows it by
        super().__init__(connection, **kwargs)

    def accepting(self) -> bool:
        """Say whether another message may be taken: Redis took note of the last one."""
        return not self._refused and not self.ledger.popped

    def let_go(self) -> None:
        """Make closing the channel neither read from its dead connection nor give anything back.

        The tasks that came by it run on; what they settle is paid by the next channel.
        """
        self._in_poll = False
        self.do_restore = False
        self._shaky = True

    def settle(self) -> None:
        """Tell Redis what was settled, unless the connection has just failed to."""
        if self._shaky:
            return
        try:
            self._pay()
        except (redis.RedisError, OSError):
            # Waiting again for every further acknowledgement would hold up the hub.
            self._shaky = True

    def tend(self) -> None:
        """Make good what could not be told. Raises when the connection is lost."""
        self._shaky = False
        self._refused = False
        try:
            self._pay()
        except redis.ResponseError as error:
            self._refuse(error)
        self._hand_in()

    def give_up(self) -> None:
        """Put back all this worker still has, at its end. Raises when Redis does not take it."""
        self._pay()
        with self.conn_or_acquire() as client:
            while self.ledger.popped:
                key, item = self.ledger.popped[0]
                client.rpush(key, item)
                self.ledger.noted()
            for tag in client.hkeys(self.unacked_key):
                self.qos.restore_by_tag(tag.decode())

    def end_pop(self) -> None:
        """Have Redis answer a pending BRPOP now. Whether with a message or without one is read as ever."""
        _, number = self._popping
        if number is not None:
            with self.conn_or_acquire() as client:
                client.execute_command("CLIENT", "UNBLOCK", number)

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
        super()._brpop_start(timeout)

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
        key, item = reply
        self.ledger.popped.append((key.decode(), item))
        self._queue_cycle.rotate(self._queue_of(key.decode()))
        self._hand_in()
        return True

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        try:
            return super()._deliver_fanout_message(message, exchange)
        except LOST:
            raise
        except Exception as error:
            _dropped(exchange, type(error).__name__)
            raise Empty from error

    def _hand_in(self) -> None:
        """Note among the unacknowledged what was popped, and give it to Celery."""
        while self.ledger.popped:
            taken = self.ledger.popped[0]
            queue = self._queue_of(taken[0])
            if message := task_message(taken[1]):
                try:
                    self.connection._deliver(message, queue)
                except redis.ResponseError as error:
                    self._refuse(error)
                    return
            else:
                _dropped(queue, "not a task")
                self.ledger.noted()
        if self.ledger.refused:
            self.ledger.refused = False
            log.info("redis takes writes again", extra={"event": "redis_accepts"})

    def _pay(self) -> None:
        settled = self.ledger.settled
        if done := [tag for tag, requeue in settled.items() if not requeue]:
            # Not in a transaction: a full Redis refuses those even for what makes it emptier.
            with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                pipe.hdel(self.unacked_key, *done).zrem(self.unacked_index_key, *done).execute()
            for tag in done:
                del settled[tag]
        for tag in list(settled):
            self.qos.restore_by_tag(tag)
            del settled[tag]

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


class Transport(stock.Transport):
    """Of a connection that carries a `ledger`."""

    Channel = Channel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        self.ledger: Ledger = client.ledger
        super().__init__(client, **kwargs)


def _dropped(queue: str, reason: str) -> None:
    # Not a word of what it said: it may be somebody's prompt.
    log.warning("message dropped", extra={"event": "message_dropped", "queue": queue, "reason": reason})
