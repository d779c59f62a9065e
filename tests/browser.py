"""A real browser for tests: Debian's Chromium, headless, told what to do by the DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tests.debian import required

_ANSWER_WITHIN_S = 60.0
# No sandbox: it cannot be had by root, as whom CI runs, and all that is opened is our own.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def require_program() -> str:
    """Return Chromium. Where there is none, the tests are skipped, and in CI it is installed first."""
    return required("chromium", "chromium", lambda: shutil.which("chromium"))


class Page:
    """One tab. What it is asked is answered by the page as it is then; whoever waits for more asks again."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.tell(method, session=self._session, **params)

    def open(self, url: str) -> None:
        """Go to `url` and return when it is there; its scripts may still be at work."""
        self.tell("Page.navigate", url=url)
        give_up = time.monotonic() + _ANSWER_WITHIN_S
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < give_up, f"{url} does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Return what a JavaScript expression comes to, as JSON has it."""
        answer = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """Return what a person reads there; nothing where there is no such element."""
        return str(self.run(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''"))

    def table(self, selector: str) -> list[list[str]]:
        """Return the cells of a table's body, row by row, each with all its text, shown or not."""
        rows = f"[...document.querySelectorAll({json.dumps(selector + ' tbody tr')})]"
        cells: list[list[str]] = self.run(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent.trim()))")
        return cells

    def picture(self) -> bytes:
        """Return the page as a PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot", format="png", optimizeForSpeed=False)["data"])


class Browser:
    """A Chromium process of our own, with a profile that is gone when it ends."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, from_: int) -> None:
        self._process = process
        self._to, self._from = to, from_
        self._numbers = itertools.count(1)
        self._read = b""

    def page(self, *, user: str = "", password: str = "", width: int = 1200, height: int = 700) -> Page:
        """Open an empty tab, which gives this name and password to whatever it asks."""
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page.tell("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        if user:
            credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
            page.tell("Network.enable")
            page.tell("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {credentials}"})
        return page

    def tell(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; events in between are passed over."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        give_up = time.monotonic() + _ANSWER_WITHIN_S
        while True:
            answer = self._next(give_up)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, give_up: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(0.0, give_up - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has ended"
            self._read += piece
        line, _, self._read = self._read.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a browser; nothing of it is left afterwards."""
    program = require_program()
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True))
        theirs_in, ours_out = _high_pipe()
        ours_in, theirs_out = _high_pipe()
        for ours in (ours_out, ours_in):
            stack.callback(os.close, ours)
        said = stack.enter_context(tempfile.TemporaryFile())
        # It reads its orders from descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", program]
        process = subprocess.Popen(
            [*shell, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        stack.callback(_end, process)
        started = Browser(process, ours_out, ours_in)
        try:
            started.tell("Browser.getVersion")
        except (OSError, AssertionError):
            said.seek(0)
            raise RuntimeError(f"{program} does not run: {said.read()[-2000:].decode(errors='replace')}") from None
        yield started


def _high_pipe() -> tuple[int, int]:
    """Return both ends of a pipe, neither of them 3 or 4, which the shell would put something else on first."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with all it has started: they are one group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
