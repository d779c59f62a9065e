"""The first process of a container: passes signals on, and buries whoever has no parent left.

To the first process the kernel delivers only signals that it has asked for, so a worker
in its place would not hear that it is to stop until it has imported half of everything.
Docker has such a process too, but not every installation of it.
"""

from __future__ import annotations

import os
import signal
import sys

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(argv: list[str]) -> int:
    """Run `argv` to its end, and return its exit code as a shell would."""
    # What comes before there is somebody to pass it on to, waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.posix_spawnp(argv[0], argv, os.environ, setsigmask=())
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
