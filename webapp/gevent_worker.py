"""gunicorn's gevent worker with our deadlines, our drain and our error bodies.

Named only in `deploy/gunicorn.conf.py`.
"""

from __future__ import annotations

import gc
import logging
import time
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http import errors as http
from gunicorn.workers.ggevent import GeventWorker

from tasks import metrics
from tasks.errors import ServerOverloadedError
from webapp import request_ids
from webapp.connection import ClientConnection, ConnectionLimits
from webapp.gateway import Gateway
from webapp.openai import errors

log = logging.getLogger(__name__)

_DRAIN_LOOK_S = 0.05
# From this share of all connections on, those that only wait for a next request are let go.
_CROWDED = 0.8
_SHED_EVERY_S = 0.1
# More are accepted than served, since one that is not accepted cannot be refused either.
_SPARE_CONNECTIONS = 200

# What gunicorn's parser refuses, most specific first; anything else of its kind is a 400.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (http.LimitRequestLine, 414),
    (http.LimitRequestHeaders, 431),
    (http.ExpectationFailed, 417),
    (http.UnsupportedTransferCoding, 501),
    (http.ForbiddenProxyRequest, 403),
    (http.ConfigurationProblem, 500),
    (http.InvalidResponseHeader, 500),
    (http.InvalidResponseHeaderName, 500),
    (http.ParseException, 400),
)


# gunicorn ships no types, so its class is `Any` to mypy.
class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """One gateway process."""

    wsgi: Any

    def load_wsgi(self) -> None:
        super().load_wsgi()
        gateway: Gateway = self.wsgi.extensions["celerity"]
        settings = gateway.settings
        self._gateway = gateway
        self._connections: set[ClientConnection] = set()
        self._limits = ConnectionLimits(
            idle_s=float(self.cfg.keepalive),
            header_s=settings.header_timeout_s,
            body_s=settings.body_timeout_s,
            write_s=settings.write_timeout_s,
        )
        self._linger_bytes = 4 * settings.max_body_bytes
        self._shed_at = 0.0
        self.worker_connections = settings.gateway_connections + _SPARE_CONNECTIONS
        self._app, self.wsgi = self.wsgi, self._call_app
        # gunicorn looks each setting up by name, two dozen times a request; they no longer change.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})

    def run(self) -> None:
        # What is loaded stays: to look through it again and again would hold all answers up for some 30 ms each time.
        gc.collect()
        gc.freeze()
        try:
            super().run()
        finally:
            self._gateway.desk.close()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = ClientConnection(client, self._limits)
        if len(self._connections) >= _CROWDED * self._gateway.settings.gateway_connections:
            self._shed()
        if len(self._connections) >= self._gateway.settings.gateway_connections:
            self._turn_away(connection)
            return
        self._connections.add(connection)
        if not self.alive:
            connection.close_when_idle()
        elif self._gateway.drain.began:
            connection.close_after_answer()
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.discard(connection)

    def _shed(self) -> None:
        """Let go of clients that keep a connection for later: they would shut out those who want something now."""
        now = time.monotonic()
        if now - self._shed_at > _SHED_EVERY_S:
            self._shed_at = now
            for connection in self._connections:
                if connection.resting:
                    connection.close_when_idle()
            gevent.sleep(0)  # they end now

    def _turn_away(self, connection: ClientConnection) -> None:
        error = ServerOverloadedError("This gateway serves as many connections as it can; try again later.")
        metrics.REFUSED.labels(error.code).inc()
        answer = errors.response(error, self._gateway.luck())
        _answer_raw(connection, answer.status, answer.get_data(), list(answer.headers))
        connection.linger(self._linger_bytes)
        connection.close()

    def timeout_ctx(self) -> Any:
        # gunicorn would put one timer round the whole wait for a request;
        # `ClientConnection.recv` knows an idle client from a slow one.
        return _NO_TIMEOUT

    def handle_request(self, listener_name: Any, req: Any, sock: ClientConnection, addr: Any) -> None:
        sock.begin_request()
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:  # gunicorn's word for: close the connection
            sock.flush()
            if _body_left(req.body):
                sock.linger(self._linger_bytes)
            raise
        sock.flush()
        sock.end_request()

    def _call_app(self, environ: Any, start_response: Any) -> Any:
        """Call the application; say that the connection ends when it answers without reading the body, or drains.

        Otherwise gunicorn would read the rest, however long, to find the next request.
        """

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            response = getattr(start_response, "__self__", None)
            if response is not None and (self._gateway.drain.began or _body_left(environ["wsgi.input"])):
                response.force_close()
            write = start_response(status, headers, exc_info)
            if response is not None:
                environ["gunicorn.socket"].chunked = response.chunked
            return write

        return self._app(environ, start)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to drain. gunicorn would stop to listen at once, and nobody could be told why."""
        if getattr(self, "_gateway", None) is None:
            super().handle_exit(sig, frame)
        elif not self._gateway.drain.began:
            self._gateway.drain.begin()
            # Out of the signal handler, which may have interrupted anything.
            gevent.spawn(self._drain)

    def _drain(self) -> None:
        """Let what runs end, within its time; whoever comes meanwhile is told that the process ends."""
        log.info("drain began", extra={"event": "drain_began", "connections": len(self._connections)})
        running = self._close_idle()
        until = time.monotonic() + self._gateway.settings.drain_timeout_s
        while running & self._connections:
            if time.monotonic() > until:
                self._gateway.drain.expire()
                left = len(running & self._connections)
                log.warning("drain ran out", extra={"event": "drain_expired", "connections": left})
                break
            gevent.sleep(_DRAIN_LOOK_S)
        self.alive = False
        self._close_idle()

    def _close_idle(self) -> set[ClientConnection]:
        """Accept no further request on any connection there is. Returns these connections."""
        connections = set(self._connections)
        for connection in connections:
            connection.close_when_idle()
        return connections

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what never became a request for the application.

        gunicorn's own version answers HTML, and writes the offending line, which may
        hold a key, into its log.
        """
        status = next((status for kind, status in _STATUS if isinstance(exc, kind)), 500)
        if isinstance(exc, http.ParseException):
            log.info("bad HTTP refused", extra={"event": "bad_http_refused", "kind": type(exc).__name__})
        else:
            log.error("request handling failed", exc_info=exc, extra={"event": "worker_error"})
        reason, payload = errors.http_error(status)
        _answer_raw(client, f"{status} {reason}", payload, [("Content-Type", "application/json")])
        client.linger(self._linger_bytes)


class _NoTimeout:
    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...


_NO_TIMEOUT = _NoTimeout()


def _body_left(body: Any) -> bool:
    """Say whether gunicorn's `body` has not been read to its end."""
    reader = body.reader
    return bool(body.failed or getattr(reader, "length", 0) or getattr(reader, "parser", None))


def _answer_raw(client: ClientConnection, status: str, payload: bytes, headers: list[tuple[str, str]]) -> None:
    """Answer what never reaches the application."""
    kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
    kept += [("Content-Length", str(len(payload))), ("x-request-id", request_ids.new()), ("Connection", "close")]
    head = "".join([f"HTTP/1.1 {status}\r\n", *(f"{name}: {value}\r\n" for name, value in kept), "\r\n"])
    with suppress(OSError):  # it has left already
        client.sendall(head.encode("ascii") + payload)
        client.flush()
