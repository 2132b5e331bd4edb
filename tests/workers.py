"""Functions for children of ``normsurgery.isolation``, which imports them by name."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from normsurgery.isolation import Step


def double(array, progress):
    progress(Step("doubling", "candidate", 1, 2))
    return 2 * array


def process_id(progress):
    return os.getpid()


def fail(error, progress):
    raise error


def divide_by_zero(progress):
    return 1 / 0


class AwkwardError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def fail_awkwardly(progress):
    raise AwkwardError("no", "way")


def die(number, progress):
    progress(Step("running the candidate", "candidate"))
    sys.stderr.write("last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(status, progress):
    os._exit(status)


def sleep(progress):
    progress(Step("sleeping"))
    time.sleep(600)


def leave_a_file_and_sleep(progress):
    path = Path(tempfile.mkdtemp(), "large.bin")
    path.write_bytes(b"weights")
    progress(Step(f"sleeping beside {path.name}"))
    time.sleep(600)


def allocate(size, progress):
    progress(Step("allocating"))
    return np.ones(size, np.uint8).size


def shout(progress):
    sys.stdout.write("a library that prints\n")
    os.write(1, b"a library that writes\n")
    return "done"


def write_id_and_sleep(path, progress):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)
