"""Runs a shell command in a session of its own, and ends all of it when stdin ends: when the caller is killed.

    python -I -S guard.py LINE      exits as the command does; 128 + n where signal n ended it

What the command left running when it ends is ended too. A program, not a module: it imports nothing of prefmerge, so it
starts in milliseconds. Not here: processes that leave their group.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0  # seconds between asking the command to end and ending it


def end(child: "subprocess.Popen[bytes]") -> None:
    """End the command and what it started."""
    with contextlib.suppress(OSError):  # none is left
        os.killpg(child.pid, signal.SIGTERM)
        until = time.monotonic() + GRACE
        while time.monotonic() < until:
            child.poll()
            time.sleep(0.02)
            os.killpg(child.pid, 0)
        os.killpg(child.pid, signal.SIGKILL)


def watch(child: "subprocess.Popen[bytes]") -> None:
    """End the command at the end of stdin."""
    while os.read(0, 4096):
        pass
    end(child)


def main(line: str) -> int:
    """Run the command."""
    child = subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=watch, args=(child,), daemon=True).start()
    code = child.wait()
    end(child)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
