"""For tests of flows: sources that crash on cue, and sinks that collect what they are given."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from obzen_runtime.kernel import Transient
from obzen_runtime.stages import Sink, Source, sink, source

__all__ = ["Collected", "crashing"]


def _transient(number: int) -> BaseException:
    return Transient(f"the source breaks before item {number}, as it was told")


def crashing(
    items: Iterable[Any],
    *,
    at: Sequence[int],
    kind: Any = int,
    name: str = "crashing",
    error: Callable[[int], BaseException] = _transient,
) -> Source:
    """A source of `items`, of type `kind`, that raises before the items with these numbers (from 0), once before each.

    What it raises is `error(number)`: by default `oz.Transient`, after which a flow that may restart goes on, giving
    every item once. Raise anything else to see a flow fail. The items are kept, so that they can be given again.
    """
    kept = list(items)
    left = set(at)

    def given() -> Iterator[Any]:
        for number, item in enumerate(kept):
            if number in left:
                left.remove(number)
                raise error(number)
            yield item

    given.__name__ = name
    given.__annotations__["return"] = Iterator[kind]
    described: Source = source(given)
    return described


class Collected(list[Any]):
    """A list, and sinks that fill it: `numbers >> double >> seen.sink(int)`.

    A sink may be given an event again after a crash: then it is in the list again.
    """

    def sink(self, kind: Any = object, *, name: str = "collected", fails_at: Sequence[int] = ()) -> Sink:
        """A sink of events of type `kind`. Its calls with these numbers (from 0) crash it, before the event is taken."""
        calls = 0
        left = set(fails_at)

        def collect(event: Any) -> None:
            nonlocal calls
            calls += 1
            if calls - 1 in left:
                left.remove(calls - 1)
                raise SystemExit(3)  # no event's failure: it breaks the stage
            self.append(event)

        collect.__name__ = name
        collect.__annotations__["event"] = kind
        described: Sink = sink(collect)
        return described
