"""A process that has imported what a replica needs, and of which replicas are forked.

It has one thread, no connection and no device, so that a fork of it is as good as a
process that has just imported the same. It ends when its launcher does, which it hears
from their socket; what it has forked goes on.

A fork does nothing until its launcher says so, which by then knows its number. So a start
that comes to nothing anywhere on the way leaves no process that nobody knows of.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from workers.launcher.guard_process import enlist
from workers.launcher.imprint import Imprint, NoRoomError, show_title
from workers.launcher.replica_process import become, leave, unfit
from workers.launcher.roster import VARIABLE
from workers.launcher.sources import Sources
from workers.launcher.zygote_wire import Order, receive_order, tell


class Zygote:
    """`serve` returns in the zygote only, and then it is to end."""

    def __init__(self, control: socket.socket, modules: Sequence[str], on_interrupt: Any) -> None:
        """`on_interrupt` is what a fork does at Ctrl-C: what we would have done, had we not set that aside."""
        self._control = control
        self._on_interrupt = on_interrupt
        # What is imported now takes us for a replica without a name, as it should.
        self._imprint = Imprint(VARIABLE)
        _take_title()
        self._sources = Sources()
        before = dict(os.environ)
        self._modules = [importlib.import_module(name) for name in modules]
        # Some libraries set variables for others.
        self._env = {name: value for name, value in os.environ.items() if before.get(name) != value}
        self._sources.imported()
        self._reading, self._writing = os.pipe()

    def serve(self) -> None:
        self._imprint.write("")  # can it still?
        if reason := unfit():
            sys.stderr.write(f"no spare: {reason}\n")
            tell(self._control, unfit=reason)
            return
        # What a fork does not touch it does not copy, and a collection touches everything that it may collect.
        gc.collect()
        gc.freeze()
        for end in (self._reading, self._writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        sys.stdout.write(f"spare ready: process {os.getpid()}\n")
        tell(self._control, ready=True)
        while True:
            readable, _, _ = select.select([self._control.fileno(), self._reading], [], [])
            if self._reading in readable:
                os.read(self._reading, 4096)
                self._bury()
            if self._control.fileno() in readable and not self._follow():
                return

    def _bury(self) -> None:
        """Tell how those ended that have. What they have left behind is the launcher's to end."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            tell(self._control, ended=pid, code=os.waitstatus_to_exitcode(status))

    def _follow(self) -> bool:
        """Do what the launcher orders. Returns False when it has ended, or should get another zygote."""
        received = receive_order(self._control)
        if received is None:
            return False
        order, log, gate = received
        if self._sources.have_changed():
            tell(self._control, stale=True)
            return False
        pid = os.fork()
        if pid == 0:
            leave(lambda: self._become(order, log, gate))
        os.close(log)
        os.close(gate)
        tell(self._control, forked=pid)
        return True

    def _become(self, order: Order, log: int, gate: int) -> int:
        self._let_go(order, log)
        _wait_for_start(gate)
        enlist(order.record, order.facts, order.site)
        become(self._modules, order.program, order.args)

    def _let_go(self, order: Order, log: int) -> None:
        """Become what a process would be that was executed with this order's environment."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._control.close()
        os.close(self._reading)
        os.close(self._writing)
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.environ.clear()
        os.environ.update({**order.env, **self._env})
        os.chdir(order.cwd)
        self._imprint.write(order.env[VARIABLE])
        if "setproctitle" not in sys.modules:
            show_title(f"celerity: {order.env[VARIABLE]}")


def _wait_for_start(gate: int) -> None:
    os.write(gate, b"1")
    if os.read(gate, 1) != b"1":
        os._exit(0)  # our launcher has ended, or has given us up
    os.close(gate)


def _take_title() -> None:
    """Have the library that Celery and vLLM show titles with look where they go, since a fork would not find it."""
    try:
        importlib.import_module("setproctitle").setproctitle("celerity: spare")
    except ImportError:
        show_title("celerity: spare")


def main() -> None:
    number, *modules = sys.argv[1:]
    # A terminal's Ctrl-C reaches us too; our launcher decides when we end.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(number))
    try:
        Zygote(control, modules, on_interrupt).serve()
    except (ImportError, NoRoomError) as error:
        sys.stderr.write(f"no spare: {error}\n")
        tell(control, unfit=str(error))
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
