"""A block ends where it is large enough: by its events, or by their bytes."""

import obzen_runtime as oz
from obzen_runtime.events import DeadLetter
from obzen_runtime.stages import step
from tests.stages.kit import Seen, ints, play, small_blocks, source_of, through

MIB = 1024 * 1024


def test_a_block_of_small_events_ends_at_4096_of_them():
    done, seen = through(count=20_000)
    assert max(block.count for block in done.blocks("s")) == 4096
    assert seen == list(range(20_000))


def test_a_block_of_large_events_ends_at_about_a_mebibyte():
    seen = Seen()
    texts = [f"{n:05}" + "x" * 9_995 for n in range(2_000)]
    done = play(oz.Flow("f", source_of(*texts, kind=str) >> seen.sink(str)))
    assert seen == texts
    assert max(len(block.payloads) for block in done.blocks("s")) <= 1.01 * MIB
    assert len(done.blocks("s")) < 100


def test_outputs_that_are_larger_than_their_inputs_are_written_in_smaller_steps():
    @oz.transform
    def blow_up(n: int) -> str:
        return f"{n:05}" + "x" * 9_995

    seen = Seen()
    done = play(oz.Flow("f", ints(5_000) >> blow_up >> seen.sink(str)))
    assert [int(text[:5]) for text in seen] == list(range(5_000))
    sizes = [len(block.payloads) for block in done.blocks("blow_up")]
    assert max(sizes[1:]) <= 1.01 * MIB


def test_a_stage_whose_events_get_smaller_again_writes_more_of_them():
    seen = Seen()
    texts = ["x" * 100_000] * 50 + ["y"] * 30_000
    done = play(oz.Flow("f", source_of(*texts, kind=str) >> seen.sink(str)))
    assert len(seen) == len(texts)
    assert done.blocks("s")[-2].count > 1000


def test_letters_that_are_large_together_are_written_in_several_frames():
    rows = [oz.Bad("x" * 60_000, "not a number", f"rows.csv:{n}") for n in range(40)]
    seen = Seen()
    with small_blocks():
        done = play(oz.Flow("f", source_of(*range(100), *rows) >> seen.sink()))
    assert done.state == "drained"
    assert [letter.place for letter in done.letters()] == [f"rows.csv:{n}" for n in range(40)]
    assert most_in_a_frame(done) <= step.LARGEST // 64


def test_failed_events_that_are_large_together_are_written_in_several_frames():
    @oz.transform
    def refuse(text: str) -> str:
        raise ValueError("no")

    texts = ["x" * 60_000] * 40
    with small_blocks():
        done = play(oz.Flow("f", source_of(*texts, kind=str) >> refuse >> Seen().sink(str)))
    assert done.state == "drained"
    assert len(done.letters()) == 40
    assert most_in_a_frame(done) <= step.LARGEST // 64


def most_in_a_frame(done):
    """Bytes of letters behind one step's record, at the most."""
    most = size = 0
    for _, record in done.records:
        size = size + len(record.payload) if isinstance(record, DeadLetter) else 0
        most = max(most, size)
    assert most, "there are letters"
    return most
