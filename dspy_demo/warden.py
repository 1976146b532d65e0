"""``python -I -S warden.py GRACE_S COMMAND [ARGUMENT ...]``: end a command's group when the app is gone.

Its standard input is a pipe whose other end only the app holds: the kernel closes that when the app ends,
also by ``kill -9``. (PR_SET_PDEATHSIG would reach no grandchildren.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time


def prefix(grace_s: float) -> list[str]:
    """What to put before a command."""
    return [sys.executable, "-I", "-S", __file__, f"{grace_s:g}"]


def main() -> int:
    """Run the command; its exit status, or 128 + the signal that ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # a signal to the group reaches the command by itself
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603 - the app's own
    threading.Thread(target=end_with_the_app, args=(grace_s,), daemon=True).start()
    code = child.wait()
    os.killpg(os.getpgrp(), signal.SIGTERM)  # what the command started and left behind
    return code if code >= 0 else 128 - code


def end_with_the_app(grace_s: float) -> None:
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # this process too


if __name__ == "__main__":
    sys.exit(main())
