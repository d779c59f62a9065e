"""Flask without what no request of ours needs, since it costs more than the request itself.

Left out are sessions, handlers that are coroutines, and looking up a route that stands in
the table as it is: a path without variables is found by its text. All else is Flask's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, Response
from flask.ctx import RequestContext
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter, Rule

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class GatewayApp(Flask):
    """The application of one gateway process. No route may be added once it has served a request."""

    def __init__(self, import_name: str) -> None:
        super().__init__(import_name, static_folder=None)
        self.session_interface = _NoSessions()
        self._fixed: dict[tuple[str, str], Rule] | None = None
        self._nowhere = self.url_map.bind("")

    def fixed_rule(self, environ: WSGIEnvironment) -> Rule | None:
        """Return the route of a request whose path has no variable part; None: look it up."""
        if self._fixed is None:
            self._fixed = {
                (method, rule.rule): rule
                for rule in self.url_map.iter_rules()
                if not (rule.arguments or rule.websocket or rule.build_only or rule.redirect_to)
                for method in (rule.methods or set()) - {"OPTIONS"}  # whose answer the router makes
            }
        # An upgrade to another protocol is for the router to refuse.
        return None if "HTTP_UPGRADE" in environ else self._fixed.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))

    def request_context(self, environ: WSGIEnvironment) -> RequestContext:
        return _Context(self, environ)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        # Nothing here builds addresses, for which a request's host would be needed.
        if request is None or self.fixed_rule(request.environ):
            return self._nowhere
        return super().create_url_adapter(request)

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func


class Reply(Response):
    """A good answer to a POST, whose headers are whole: it is not read through again before it leaves."""

    def __init__(self, pieces: Iterable[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(pieces, headers=headers, direct_passthrough=True)

    def get_wsgi_response(self, environ: WSGIEnvironment) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        pieces: Iterable[bytes] = self.response  # type: ignore[assignment]  # text is never put in
        return pieces, self.status, self.headers.to_wsgi_list()


class _Context(RequestContext):
    app: GatewayApp

    def match_request(self) -> None:
        rule = self.app.fixed_rule(self.request.environ)
        if rule is None:
            super().match_request()
        else:
            self.request.url_rule, self.request.view_args = rule, {}


class _NoSessions(SessionInterface):
    def __init__(self) -> None:
        self._none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        """Keep nothing."""
