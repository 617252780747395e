import pytest

from obzen_runtime.kernel import ConfigInvalid, check_seconds, check_whole, counted


@pytest.mark.parametrize("value", [0, -1, 5, 1.0, "2", None, True, float("nan")], ids=repr)
def test_what_is_no_whole_number_in_bounds_is_refused_with_the_bounds(value):
    with pytest.raises(ConfigInvalid) as refused:
        check_whole("tries", value, least=1, most=4)
    assert str(refused.value) == f"tries={value!r} is not allowed. Give a whole number from 1 to 4."
    assert refused.value.details == {"option": "tries"}


def test_a_whole_number_may_have_no_upper_bound():
    check_whole("bytes", 1 << 80, least=1_000)
    check_whole("tries", 1, least=1, most=1)
    with pytest.raises(ConfigInvalid, match="at least 1,000"):
        check_whole("bytes", 999, least=1_000)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, "3", None, True, float("nan")], ids=repr)
def test_what_is_no_length_of_time_is_refused(value):
    with pytest.raises(ConfigInvalid, match="more than 0"):
        check_seconds("within", value)


@pytest.mark.parametrize("value", [1, 0.001, float("inf")])
def test_a_length_of_time_may_be_short_or_endless(value):
    check_seconds("within", value)


def test_a_number_is_told_with_its_noun():
    assert [counted(count, "event") for count in (0, 1, 2_000)] == ["0 events", "1 event", "2,000 events"]
    assert [counted(count, "delivery", "deliveries") for count in (1, 2)] == ["1 delivery", "2 deliveries"]
