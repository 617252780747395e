"""How much of a night: `OBZEN_NIGHT` is the share that `make crash` does; without it tests take the sample of every push."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

NIGHT = float(os.environ.get("OBZEN_NIGHT", "0"))


def spread(everything: Sequence[T], sample: int) -> Sequence[T]:
    """All in a whole night, its share in a part of one, about `sample` of them on every push; always evenly spread."""
    wanted = min(len(everything), max(sample, round(NIGHT * len(everything))))
    return [everything[number * len(everything) // wanted] for number in range(wanted)]
