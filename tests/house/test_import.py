"""Importing the package is cheap and brings nothing heavy, whatever extras are installed."""

import importlib
import json
import os
import statistics
import subprocess
import sys

import pytest

from tests.house.checks import PACKAGE, modules

HEAVY = [
    "typer",
    "click",
    "rich",
    "opentelemetry.sdk",
    "litestar",
    "uvicorn",
    "httpx",
    "asyncpg",
    "ray",
    "uvloop",
    "cryptography",
    "hypothesis",
]
BUDGET = 3.0
"""Times what asyncio and msgspec alone cost: 150 ms where those take 50."""

MEASURE = """
import json, sys, time
before = set(sys.modules)
start = time.process_time()
import {what}
print(json.dumps([time.process_time() - start, sorted(set(sys.modules) - before)]))
"""


def measure(what="obzen_runtime"):
    """Processor seconds of an import from compiled files, and the modules it loads."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", MEASURE.replace("{what}", what)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, env=environment)
    return json.loads(done.stdout)


def test_the_front_door_opens_in_under_150_ms_of_processor_time():
    measure()  # compiles what is not compiled yet
    ratio = statistics.median(measure()[0] / measure("asyncio, msgspec")[0] for _ in range(5))
    assert ratio < BUDGET, f"{ratio:.1f} times asyncio and msgspec; see python -X importtime -c 'import {PACKAGE}'"


def test_nothing_heavy_stands_behind_the_front_door():
    _, loaded = measure()
    assert PACKAGE in loaded
    assert sorted(set(HEAVY) & set(loaded)) == []


@pytest.mark.parametrize("name", [module.name for module in modules() if module.is_package])
def test_every_name_a_door_shows_can_be_imported(name):
    package = importlib.import_module(name)
    missing = [shown for shown in getattr(package, "__all__", ()) if not hasattr(package, shown)]
    assert missing == []
