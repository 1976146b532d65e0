"""Runs a command and ends its whole process group when the app that wanted it is gone.

    python -I -S warden.py GRACE_S COMMAND [ARGUMENT ...]

It leads a session of its own, and its standard input is a pipe whose other end only the app holds: the kernel
closes that when the app ends, also by ``kill -9``. (PR_SET_PDEATHSIG would reach no grandchildren.)

A script without imports of ours, so that it starts in 10 ms.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time


def main() -> int:
    """Run the command; its exit status, or 128 + the signal that ended it."""
    grace_s, command = float(sys.argv[1]), sys.argv[2:]
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # a signal to the group reaches the command by itself
    child = start(command)
    kill_at: float | None = None
    app_lives = True
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            signal_group(signal.SIGTERM)  # what the command started and left behind
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        watched = [woken, 0] if app_lives else [woken]
        wait_s = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(watched, [], [], wait_s)
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready and not os.read(0, 4096):
            app_lives = False
            kill_at = time.monotonic() + grace_s
            signal_group(signal.SIGTERM)
        if kill_at is not None and time.monotonic() >= kill_at:
            signal_group(signal.SIGKILL)  # this process too


def start(command: list[str]) -> int:
    """The process id of the running command; its standard input is empty."""
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], command)  # noqa: S606 - the command is the app's own
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    os._exit(127)


def signal_group(number: int) -> None:
    os.killpg(os.getpgrp(), number)


if __name__ == "__main__":
    sys.exit(main())
