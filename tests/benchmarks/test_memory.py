import subprocess
import sys
from pathlib import Path

GROWS = """
from benchmarks.memory import most_resident
before = most_resident()
kept = bytearray(b"x") * (64 << 20)
print(most_resident() - before)
"""


def test_memory_that_is_kept_is_seen_whatever_the_parent_used():
    ballast = bytearray(b"x") * (96 << 20)
    done = subprocess.run(
        [sys.executable, "-c", GROWS], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], timeout=50
    )
    assert 60 < float(done.stdout) < 80
    del ballast
