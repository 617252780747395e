"""Killed by the kernel while files and tables are written, again and again: in the end each holds what one life would have written."""

import json
import sqlite3
import subprocess
import sys

import pytest

from tests.scenarios.kit import ROOT

PROGRAM = """
import os
from collections.abc import Iterator

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, json_sink, jsonl_sink, sqlite_sink


class Row(msgspec.Struct, frozen=True):
    id: int
    text: str


@oz.source
def numbers() -> Iterator[int]:
    yield from range(20_000)


@oz.transform
def row(number: int) -> Row:
    if number % 500 == 0:
        os.write(1, b"%d\\n" % number)
    return Row(number, "x" * (number % 40))


@oz.transform
def picky(row: Row) -> Row:
    if row.id % 1000 == 999:
        raise ValueError(row.id)
    return row


files = [csv_sink("c", Row, path="out.csv"), json_sink("j", Row, path="out.json"), jsonl_sink("l", Row, path="out.jsonl")]
flow = oz.Flow("f", numbers >> row >> [*files, picky >> sqlite_sink("t", Row, path="out.db", table="rows")])
"""
FILES = ("out.csv", "out.json", "out.jsonl")


def started(folder, durability):
    return subprocess.Popen(
        [sys.executable, "-m", "obzen_runtime", "run", "flow.py", "--run-id", "r", "--quiet", "--durability", durability],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
    )


def rows(folder):
    database = sqlite3.connect(folder / "out.db")
    try:
        return database.execute("SELECT id FROM rows ORDER BY rowid").fetchall()
    finally:
        database.close()


@pytest.mark.parametrize("durability", ["os", "fsync"])
def test_T_E2E_what_was_killed_again_and_again_has_written_what_one_life_writes(durability, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        (folder / "flow.py").write_text(PROGRAM)
    with started(whole, durability) as process:
        process.communicate()
    assert process.returncode == 0
    cut = 0
    for lines in (1, 3, 9, 4, 7):
        with started(killed, durability) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            process.kill()
        cut += process.returncode != 0
    with started(killed, durability) as process:
        process.communicate()
    assert process.returncode == 0
    assert cut >= 3
    for name in FILES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert len(json.loads((killed / "out.json").read_text())) == 20_000
    assert rows(killed) == rows(whole)
    assert len(rows(killed)) == 19_980
