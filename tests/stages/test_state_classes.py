"""State as its class declares it: rebuilt by the decorator, shared by nobody, and refused where it would be lost."""

from collections.abc import Iterator

import pytest

import obzen_runtime as oz
from obzen_runtime.kernel import ConfigInvalid, UsageError
from tests.stages.states import Total, drained, through


def test_mutable_defaults_are_not_shared():
    @oz.stateful(key=lambda value: value % 2, emit=oz.at_end())
    class Lists:
        values: list[int] = []  # noqa: RUF012 - that it is copied is the subject
        nested: dict[str, list[int]] = {"a": []}  # noqa: RUF012 - that it is copied is the subject
        marks: set[int] = set()  # noqa: RUF012 - that it is copied is the subject

        def fold(self, value: int) -> None:
            self.values.append(value)
            self.nested["a"].append(value)
            self.marks.add(value)

        def emit(self, key: int) -> tuple[int, ...]:
            return (*self.values, *self.nested["a"], *sorted(self.marks))

    _, seen = through(Lists, count=4, given=tuple[int, ...])
    assert seen == [(0, 2) * 3, (1, 3) * 3]


def test_a_mutable_initial_value_is_not_shared_between_runs_or_restarts():
    start: list[int] = []

    @oz.fold(start, emit=oz.at_end())
    def listed(so_far: list[int], value: int) -> oz.Copied[list[int]]:
        so_far.append(value)
        return so_far

    for _ in range(2):
        done, seen = through(listed, count=3, given=oz.Copied[list[int]])
        drained(done)
        assert seen == [[0, 1, 2]]
    assert start == []


def test_a_running_value_that_changes_in_place_is_given_as_it_was():
    @oz.fold([], emit=oz.each())
    def listed(so_far: list[int], value: int) -> oz.Copied[list[int]]:
        so_far.append(value)
        return so_far

    done, seen = through(listed, count=3, given=oz.Copied[list[int]])
    drained(done)
    assert seen == [[0], [0, 1], [0, 1, 2]]

    @oz.stateful(key=lambda value: value % 2, emit=oz.each())
    class Lists:
        values: list[int] = []  # noqa: RUF012 - that it is copied is the subject

        def fold(self, value: int) -> None:
            self.values.append(value)

        def emit(self, key: int) -> oz.Copied[list[int]]:
            return self.values

    done, seen = through(Lists, count=4, given=oz.Copied[list[int]])
    drained(done)
    assert seen == [[0], [1], [0, 2], [1, 3]]


def test_methods_constants_and_properties_of_a_state_class_work():
    @oz.stateful(key=lambda value: 0, emit=oz.at_end())
    class Busy:
        """Documented."""

        count: int = 0

        @property
        def double(self) -> int:
            return 2 * self.count

        @staticmethod
        def one() -> int:
            return 1

        @classmethod
        def name(cls) -> str:
            return cls.__name__

        def helper(self) -> int:
            return self.double + self.one()

        def fold(self, value: int) -> None:
            self.count += 1

        def emit(self, key: int) -> tuple[str, int]:
            return self.name(), self.helper()

    _, seen = through(Busy, count=4, given=tuple[str, int])
    assert seen == [("Busy", 9)]
    assert oz.stage(Busy).handler.__doc__ == "Documented."


def test_a_parameter_of_fold_is_configuration():
    @oz.stateful(key=lambda value: value % 2, emit=oz.at_end())
    class Scaled:
        sum: int = 0

        def fold(self, value: int, *, by: int = 1) -> None:
            self.sum += by * value

        def emit(self, key: int) -> int:
            return self.sum

    stage = oz.stage(Scaled)
    assert list(stage.parameters) == ["by"]
    for described, sums in [(stage, [6, 9]), (stage(by=10), [60, 90]), (stage.bind_text("by", ["2"]), [12, 18])]:
        done, seen = through(described, count=6)
        drained(done)
        assert seen == sums


def test_what_a_state_class_has_and_nobody_would_call_is_refused():
    def described(**more):
        class Tally:
            count: int = 0

            def fold(self, value: int) -> None: ...

            def emit(self, key: int) -> int:
                return 1

        for name, each in more.items():
            setattr(Tally, name, each)
        return Tally

    def begin(self) -> None: ...

    def yields(self, key: int) -> Iterator[int]:
        yield key

    async def waits(self, key: int) -> int:
        return key

    def scaled(self, key: int, *, by: int = 1) -> int:
        return key

    keyed = oz.stateful(key=abs, emit=oz.each())
    keyed(described())
    for more, said in [
        ({"__init__": begin}, r"Tally.__init__ would not be called. State begins with the defaults"),
        ({"__post_init__": begin}, r"Tally.__post_init__ would not be called"),
        ({"emit": yields}, "or yields"),
        ({"fold": yields}, "or yields"),
        ({"emit": waits}, "plain methods"),
        ({"emit": scaled}, "Tally.emit has the parameter 'by'. Give it to fold"),
    ]:
        with pytest.raises(UsageError, match=said):
            keyed(described(**more))
    with pytest.raises(UsageError, match="is not a class"):
        keyed(scaled)
    with pytest.raises(UsageError, match="or yields"):
        oz.fold(0, emit=oz.each())(yields)


def test_state_that_is_not_said_is_refused():
    with pytest.raises(UsageError, match="state without an annotation") as refused:

        @oz.stateful(key=abs, emit=oz.at_end())
        class Hidden:
            count = 0

            def fold(self, value: int) -> None: ...
            def emit(self, key: int) -> int: ...

    assert "count: TYPE = 0" in refused.value.remedy
    with pytest.raises(UsageError, match="no default"):

        @oz.stateful(key=abs, emit=oz.at_end())
        class Unset:
            count: int

            def fold(self, value: int) -> None: ...
            def emit(self, key: int) -> int: ...

    class Counting:
        count: int = 0

    with pytest.raises(UsageError, match="Inheriting has a base class, Counting"):

        @oz.stateful(key=abs, emit=oz.at_end())
        class Inheriting(Counting):
            def fold(self, value: int) -> None: ...
            def emit(self, key: int) -> int: ...

    with pytest.raises(UsageError, match="no method 'emit'"):

        @oz.stateful(key=abs, emit=oz.at_end())
        class Silent:
            count: int = 0

            def fold(self, value: int) -> None: ...

    with pytest.raises(UsageError, match="plain methods"):

        @oz.stateful(key=abs, emit=oz.at_end())
        class Waiting:
            async def fold(self, value: int) -> None: ...
            def emit(self, key: int) -> int: ...

    with pytest.raises(UsageError, match="plain def"):

        @oz.fold(0, emit=oz.at_end())
        async def waits(a: int, b: int) -> int: ...

    for count in (0, "2", 2.5, True):
        with pytest.raises(ConfigInvalid, match="at least 1"):
            oz.every(count)
    with pytest.raises(UsageError, match="is not a stage"):
        oz.stage(Total)
