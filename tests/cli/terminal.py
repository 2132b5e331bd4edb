"""The command line in a process whose standard error is a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys


def on_a_terminal(*arguments: str) -> tuple[bytes, bytes]:
    """Run ``normsurgery``; return its standard output, and what the terminal shows.

    Without a terminal it has to give the same output, and show nothing.
    """
    command = [sys.executable, "-c", "from normsurgery_cli.main import main; main()", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    leader, follower = pty.openpty()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=follower, check=True, env=environment
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # Linux: nobody has the other end open
            break
        if not part:
            break
        shown += part
    quiet = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert quiet.stderr == b""
    assert quiet.stdout == done.stdout
    return done.stdout, shown
