"""Lines at the foot of a terminal: drawn in place, out of the way of what is printed, nothing left to restore."""

import fcntl
import os
import pty
import signal
import struct
import sys
import termios

import pytest

from obzen_runtime.cli.screen import Screen
from tests.cli.kit import HEAD, spawn


class Terminal:
    """As much of a terminal as a table needs: rows of text, a cursor, three sequences."""

    def __init__(self):
        self.rows, self.row, self.column = [""], 0, 0

    def feed(self, text):
        at = 0
        while at < len(text):
            sign = text[at]
            at += 1
            if sign == "\x1b":
                assert text[at] == "["
                end = next(place for place in range(at + 1, len(text)) if text[place].isalpha())
                self.obey(text[end], int(text[at + 1 : end] or 0))
                at = end + 1
            elif sign == "\n":
                self.row, self.column = self.row + 1, 0  # as a terminal with onlcr does
                if self.row == len(self.rows):
                    self.rows.append("")
            elif sign == "\r":
                self.column = 0
            else:
                line = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = line[: self.column] + sign + line[self.column + 1 :]
                self.column += 1
        return self

    def obey(self, letter, count):
        if letter == "A":
            self.row -= count
            assert self.row >= 0
        elif letter == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif letter == "J":
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        else:
            raise AssertionError(f"changes a mode or a colour: {letter}")

    @property
    def text(self):
        return "\n".join(self.rows)


class Fake:
    """A stream that calls itself a terminal."""

    def __init__(self, terminal):
        self.terminal = terminal

    def write(self, text):
        self.terminal.feed(text)
        return len(text)

    def flush(self):
        """Nothing is kept back."""

    def isatty(self):
        return True

    def fileno(self):
        raise OSError(25, "not a real one")


def faked(monkeypatch):
    """Standard output and error on one terminal. Not a fixture: the runner's capture comes between set-up and test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", Fake(terminal))
    monkeypatch.setattr(sys, "stderr", Fake(terminal))
    return terminal


def test_a_drawing_takes_the_place_of_the_one_before_also_when_it_is_shorter(monkeypatch):
    terminal = faked(monkeypatch)
    with Screen(sys.stderr) as screen:
        screen.draw(["one", "two", "three"])
        assert terminal.text == "one\ntwo\nthree\n"
        screen.draw(["o", "t"])
        assert terminal.text == "o\nt\n"


def test_what_is_printed_stands_above_the_lines(monkeypatch):
    terminal = faked(monkeypatch)
    with Screen(sys.stderr) as screen:
        screen.draw(["table"])
        print("a")  # noqa: T201 - what a user does
        print("b", file=sys.stderr)  # noqa: T201 - what a user does
        screen.draw(["table"])
        assert terminal.text == "a\nb\ntable\n"


def test_an_unfinished_line_of_the_user_is_never_drawn_into(monkeypatch):
    terminal = faked(monkeypatch)
    with Screen(sys.stderr) as screen:
        screen.draw(["table"])
        print("half", end="")  # noqa: T201 - what a user does
        screen.draw(["table"])
        assert terminal.text == "half"
        print(" done")  # noqa: T201 - what a user does
        screen.draw(["table"])
        assert terminal.text == "half done\ntable\n"


def test_the_streams_are_given_back_also_after_an_error(monkeypatch):
    faked(monkeypatch)
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), Screen(sys.stderr):
        assert (sys.stdout, sys.stderr) != before
        1 / 0  # noqa: B018
    assert (sys.stdout, sys.stderr) == before


def test_a_stream_that_is_no_terminal_is_left_alone(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Fake(Terminal()))
    before = sys.stdout
    with Screen(sys.stderr):
        assert sys.stdout is before


def test_a_terminal_that_has_gone_does_not_end_the_run():
    class Gone(Fake):
        def write(self, text):
            raise OSError(5, "gone")

    screen = Screen(Gone(Terminal()))
    screen.draw(["x"])
    screen.clear()
    assert screen.size() == (80, 24)


def test_after_it_was_stopped_what_the_shell_wrote_is_left_alone(monkeypatch):
    terminal = faked(monkeypatch)
    before = signal.getsignal(signal.SIGCONT)
    with Screen(sys.stderr) as screen:
        screen.draw(["one", "two"])
        terminal.feed("[1]+  Stopped\n$ fg\n")
        signal.raise_signal(signal.SIGCONT)
        screen.draw(["three"])
        assert terminal.text == "one\ntwo\n[1]+  Stopped\n$ fg\nthree\n"
    assert signal.getsignal(signal.SIGCONT) == before


def test_in_the_background_nothing_is_drawn(monkeypatch):
    terminal = faked(monkeypatch)
    with Screen(sys.stderr) as screen:
        screen.draw(["one", "two"])
        with monkeypatch.context() as away:
            away.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
            away.setattr(Fake, "fileno", lambda _: 2)
            screen.draw(["three"])
        terminal.feed("$ fg\n")
        screen.draw(["four"])
        assert terminal.text == "one\ntwo\n$ fg\nfour\n"


PROGRAM = HEAD + (
    "@oz.source(thread=True)\n"
    "def slow(progress: oz.Progress) -> Iterator[int]:\n"
    "    progress.total = 4\n"
    "    for n in range(4):\n"
    "        time.sleep(0.15)\n"
    "        progress.done = n + 1\n"
    "        yield n\n\n"
    'flow = oz.Flow("seen", slow >> double >> show)\n'
    "@oz.source(thread=True)\n"
    "def endless() -> Iterator[int]:\n"
    "    while True:\n"
    "        yield 1\n"
    "        time.sleep(0.05)\n\n"
    'forever = oz.Flow("forever", endless >> show)\n'
)


def on_a_terminal(folder, *arguments, until=None, act=None):
    """Run the command on a real pseudo-terminal; what it wrote, its exit code, and whether the terminal's modes are as before."""
    (folder / "flow.py").write_text(PROGRAM)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    before = termios.tcgetattr(leader)
    process = spawn(*arguments, cwd=folder, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    data = b""
    try:
        while chunk := read(leader):
            data += chunk
            if until is not None and until in data:
                act(process)
                until = None
        return data.decode(), process.wait(), termios.tcgetattr(leader) == before
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def read(leader):
    try:
        return os.read(leader, 65536)
    except OSError:  # the last process that had the terminal has ended
        return b""


def test_on_a_terminal_it_draws_ends_with_the_final_table_and_leaves_the_terminal_as_it_was(tmp_path):
    text, code, same = on_a_terminal(tmp_path, "run", "flow.py:flow", "--run-id", "r")
    assert (code, same) == (0, True)
    assert "running" in text
    assert "50%" in text or "75%" in text
    rows = Terminal().feed(text).rows
    assert [row for row in rows if row.startswith("got")] == ["got 0", "got 2", "got 4", "got 6"]
    table = rows[rows.index(next(row for row in rows if row.startswith("seen: drained"))) :]
    assert [row.split()[:3] for row in table[2:5]] == [["slow", "drained", "4"], ["double", "drained", "4"], ["show", "drained", "4"]]
    assert "100%" in table[2]
    assert table[5].startswith("drained after")
    assert table[-3:-1] == ["  obzen inspect runs/r", "  obzen replay runs/r --verify"]


def test_a_first_ctrl_c_suspends_and_the_exit_code_says_so(tmp_path):
    def interrupt(process):
        process.send_signal(signal.SIGINT)

    text, code, same = on_a_terminal(tmp_path, "run", "flow.py:forever", "--run-id", "r", until=b"got", act=interrupt)
    assert (code, same) == (130, True)
    assert "cancelled (user_stop)" in text
    assert "Traceback" not in text


def test_a_kill_while_it_draws_leaves_the_terminal_as_it_was(tmp_path):
    def kill(process):
        process.kill()

    text, code, same = on_a_terminal(tmp_path, "run", "flow.py:forever", "--run-id", "r", until=b"forever: running", act=kill)
    assert (code, same) == (-9, True)
    assert "\x1b[?" not in text
