"""The command as a process: signals, pipes that close, a disk that fills, and what it costs to start."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.kit import HEAD, HELLO, spawn

ENDLESS = HEAD + (
    "@oz.source(thread=True)\ndef endless() -> Iterator[int]:\n"
    "    n = 0\n"
    "    while True:\n        yield n\n        n += 1\n        time.sleep(0.01)\n\n"
    "@oz.sink\ndef tell(n: int) -> None:\n    print(n, flush=True)\n\n"
    'flow = oz.Flow("endless", endless >> tell)\n'
)

ODD = (
    "@oz.source\ndef words() -> Iterator[str]:\n    yield 'world 世界'\n\n@oz.sink\ndef keep(word: str) -> None: ...\n\n"
    'flow = oz.Flow("odd", words >> keep)\n'
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "flow.py").write_text(HELLO)
    return tmp_path


def ended(process, timeout=30):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_suspends_the_run_and_the_exit_code_names_it(folder, number, code):
    (folder / "flow.py").write_text(ENDLESS)
    process = spawn("run", "flow.py", "--run-id", "r", cwd=folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"0\n"
    process.send_signal(number)
    returned, _, err = ended(process)
    assert returned == code
    assert "cancelled (user_stop)" in err
    assert "Traceback" not in err
    state = subprocess.run([sys.executable, "-m", "obzen_runtime", "runs", "--json"], cwd=folder, capture_output=True, check=True).stdout
    assert b'"state":"cancelled"' in state


@pytest.mark.parametrize("arguments", [["inspect", "--last", "--type", "event"], ["inspect", "--last", "--json", "--events"]])
def test_a_reader_that_leaves_early_ends_inspect_quietly(folder, arguments):
    assert ended(spawn("run", "flow.py", "-q", "--set", "numbers.count=30000", cwd=folder, stdout=-1, stderr=-1))[0] == 0
    process = spawn(*arguments, cwd=folder, stdout=-1, stderr=-1)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_run_does_not_end_because_a_standard_stream_is_not_there(folder, closed):
    command = f"exec {sys.executable} -m obzen_runtime run flow.py --run-id r {closed}"
    code, _, err = ended(subprocess.Popen(["bash", "-c", command], cwd=folder, stdout=-1, stderr=-1))
    assert (code, "Traceback" in err) == (0, False)
    assert '"state":"drained"' in ended(spawn("runs", "--json", cwd=folder, stdout=-1, stderr=-1))[1]


def test_what_the_encoding_of_a_stream_has_no_sign_for_is_escaped(folder):
    (folder / "flow.py").write_text(HEAD + ODD)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    assert ended(spawn("run", "flow.py", "-q", cwd=folder, stdout=-1, stderr=-1))[0] == 0
    code, out, err = ended(spawn("inspect", "--last", "--type", "event", cwd=folder, env=environment, stdout=-1, stderr=-1))
    assert (code, err) == (0, "")
    assert "\\u4e16\\u754c" in out


def test_a_reader_that_leaves_early_gives_a_run_no_traceback(folder):
    (folder / "flow.py").write_text(ENDLESS.replace("while True", "while n < 50"))
    process = spawn("run", "flow.py", cwd=folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    err = process.stderr.read().decode()
    process.stderr.close()
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert "drained after" in err


def test_a_closed_standard_error_does_not_end_a_run(folder):
    read, write = os.pipe()
    os.close(read)
    process = spawn("run", "flow.py", cwd=folder, stdout=-1, stderr=write)
    os.close(write)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"got 90\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_input_or_output(folder):
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount")
    try:
        code, _, err = ended(spawn("run", "flow.py", "--journal", disk, "--set", "numbers.count=1000000", cwd=folder, stdout=-1, stderr=-1))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert code == 74, err
    assert "Traceback" not in err
    assert "No space left" in err


def test_a_run_killed_by_its_terminal_going_away_can_still_be_read(folder):
    (folder / "flow.py").write_text(ENDLESS)
    process = spawn("run", "flow.py", "--run-id", "r", "-q", cwd=folder, stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"0\n"
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert ended(spawn("journal", "check", "r", cwd=folder, stdout=-1, stderr=-1))[0] == 0


def test_a_whole_process_for_one_event_takes_little_more_time_than_one_that_does_nothing(folder):
    seconds = {"nothing": [], "run": []}  # 0.3 s and 0.4 s on an idle machine; a busy one takes its time with both
    for _ in range(4):
        for name, words in [("nothing", ["--version"]), ("run", ["run", "flow.py", "--quiet", "--set", "numbers.count=1"])]:
            began = time.perf_counter()
            assert ended(spawn(*words, cwd=folder, stdout=-1, stderr=-1))[0] == 0
            seconds[name].append(time.perf_counter() - began)
    assert min(seconds["run"]) < 3 * min(seconds["nothing"]), seconds
