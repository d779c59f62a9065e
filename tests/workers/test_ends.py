"""The end of a process is noticed at once, whosever child it is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from workers.launcher.ends import Ends

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this kernel does not tell")
WAITS = [sys.executable, "-c", "input()"]


def test_an_end_is_noticed_before_anybody_has_looked() -> None:
    noticed = threading.Event()
    ends = Ends(noticed.set)
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE) as child:
        ends.watch(child.pid)
        ends.watch(child.pid)
        assert not noticed.is_set()
        child.kill()
        assert noticed.wait(20)
    ends.close()


def test_the_end_of_who_is_nobodys_child_is_noticed_too() -> None:
    code = f"import subprocess; print(subprocess.Popen({['sleep', '1000']!r}, stdout=-3).pid)"
    pid = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    noticed = threading.Event()
    ends = Ends(noticed.set)
    ends.watch(pid)
    os.kill(pid, 9)
    assert noticed.wait(20)
    noticed.clear()
    # It had ended before it was watched.
    ends.watch(pid)
    assert noticed.wait(20)
    ends.close()
