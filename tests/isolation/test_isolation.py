from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import workers

from normsurgery import isolation
from normsurgery.errors import CrashError, UsageError
from normsurgery.isolation import Limits, Step, transfer


@pytest.fixture(params=[False, True], ids=["spawn", "fork"])
def call(request):
    """``isolation.call`` both ways; what the children run here starts no threads."""
    return functools.partial(isolation.call, fork=request.param)


def test_the_value_comes_back_and_the_steps_are_told(call):
    steps = []
    found = call(workers.double, {"array": np.arange(4)}, progress=steps.append)
    assert found.tolist() == [0, 2, 4, 6]
    assert steps == [Step("doubling", "candidate", 1, 2)]


def test_it_is_another_process(call):
    assert call(workers.process_id, {}) != os.getpid()


def test_arrays_travel_as_raw_bytes(monkeypatch):
    sizes = []
    plain = transfer.pickle.dumps

    def counted(*args, **kwargs):
        done = plain(*args, **kwargs)
        sizes.append(len(done))
        return done

    monkeypatch.setattr(transfer.pickle, "dumps", counted)
    array = np.random.default_rng(0).normal(size=(3, 1 << 18))
    found = isolation.call(workers.double, {"array": array})
    assert max(sizes) < 10_000  # of 6 MiB
    assert np.array_equal(found, 2 * array)
    found[0, 0] = 1  # and they can be written to


def test_an_error_of_ours_comes_back_as_it_was(call):
    with pytest.raises(UsageError, match="input `x` is odd") as caught:
        call(workers.fail, {"error": UsageError("input `x` is odd")})
    assert caught.value.exit_status == 2


def test_another_error_says_where_it_came_from(call):
    with pytest.raises(ZeroDivisionError) as caught:
        call(workers.divide_by_zero, {})
    assert "in divide_by_zero" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_becomes_one_that_can():
    with pytest.raises(RuntimeError, match="AwkwardError: no"):
        isolation.call(workers.fail_awkwardly, {})


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGABRT, "SIGABRT")]
)
def test_a_crash_is_one_line(call, number, name):
    with pytest.raises(CrashError) as caught:
        call(workers.die, {"number": int(number)})
    assert (
        str(caught.value) == f"the process ended with {name} in running the candidate: last words"
    )
    assert caught.value.step == Step("running the candidate", "candidate")
    assert caught.value.exit_status == 3


def test_an_exit_is_a_crash(call):
    with pytest.raises(CrashError, match="status 7 in starting"):
        call(workers.leave, {"status": 7})


def test_temporary_files_of_a_killed_child_are_gone(call, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(CrashError, match="sleeping beside"):
        call(workers.leave_a_file_and_sleep, {}, limits=Limits(seconds=2))
    assert list(tmp_path.iterdir()) == []


def test_a_hang_ends(call):
    with pytest.raises(CrashError, match=r"0\.5 s were not enough for sleeping"):
        call(workers.sleep, {}, limits=Limits(seconds=0.5))


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is RLIMIT_DATA of Linux")
def test_too_much_memory_is_one_line(call):
    with pytest.raises(CrashError, match=r"0\.5 GB of memory were not enough for allocating"):
        call(workers.allocate, {"size": 1 << 30}, limits=Limits(memory=500_000_000))
    assert call(workers.allocate, {"size": 1 << 20}) == 1 << 20


def test_free_memory_is_a_number():
    assert 1 << 20 < isolation.free_memory() <= 1 << 62


def test_prints_of_the_child_do_not_get_in_the_way(call, capfd):
    assert call(workers.shout, {}) == "done"
    assert capfd.readouterr() == ("", "")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("fork", [False, True], ids=["spawn", "fork"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_orphan_is_left_when_the_parent_is_interrupted_or_killed(tmp_path, number, fork):
    script = textwrap.dedent(f"""
        import sys
        sys.path[:] = {sys.path!r}
        import workers
        from normsurgery import isolation
        path = {str(tmp_path / "id")!r}
        isolation.call(workers.write_id_and_sleep, {{"path": path}}, fork={fork})
    """)
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    written = tmp_path / "id"
    until = time.monotonic() + 60
    while not (written.exists() and written.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    child = int(written.read_text())
    assert alive(child)
    parent.send_signal(number)
    parent.wait(60)
    while alive(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(child)


def test_a_module_in_the_current_folder_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("import os; os._exit(7)")
    monkeypatch.chdir(tmp_path)
    steps = []
    found = isolation.call(workers.double, {"array": np.arange(2)}, progress=steps.append)
    assert found.tolist() == [0, 2]
