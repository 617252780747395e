"""What a flow writes does not depend on hash seeds, time zones or locales: the same program gives the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = [
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
    {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0"},
]
PROGRAM = """
import asyncio, hashlib, json, locale, runpy, sys
from pathlib import Path
import msgspec
import obzen_runtime as oz
from obzen_runtime.events import Block
from obzen_runtime.journal import SegmentReader

locale.setlocale(locale.LC_ALL, "")

async def digests(run):
    found, counts = {}, {}
    async for entry in SegmentReader.open(run).read():
        block = entry.record
        if isinstance(block, Block) and block.count:
            digest = found.setdefault(block.stage, hashlib.sha256())
            counts[block.stage] = counts.get(block.stage, 0) + block.count
            for raw in msgspec.msgpack.decode(block.payloads, type=list[msgspec.Raw]):
                digest.update(bytes(raw))
    return {stage: f"{counts[stage]} {digest.hexdigest()}" for stage, digest in found.items()}

told = {}
for program in sys.argv[1:]:
    flow = runpy.run_path(program).get("flow")
    if isinstance(flow, oz.Flow):
        name = Path(program).stem
        oz.run(flow, journal="runs", run_id=name)
        told[name] = asyncio.run(digests(Path("runs", name)))
Path("told.json").write_text(json.dumps(told))
"""
TEXT = "The cat; the dog. THE end\nA cat, a dög and (the) rest\n" * 50


@pytest.mark.timeout(60)
def test_T_NDET_examples_give_the_same_bytes_under_other_seeds_zones_and_locales(tmp_path):
    programs = [str(path) for path in sorted((ROOT / "examples").glob("[0-9][0-9]_*.py"))]
    running = []
    for number, place in enumerate(PLACES):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "README.md").write_text(TEXT, encoding="utf-8")
        environment = {**os.environ, **place, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, *programs]
        running.append(
            (directory, subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        )
    told = []
    for directory, process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode(errors="replace")
        told.append(json.loads((directory / "told.json").read_text()))
    assert {"01_hello", "02_wordcount", "06_flights"} <= told[0].keys()
    assert all(stages for stages in told[0].values())
    assert told[0] == told[1]
