"""`obzen resolve`: what nobody knows is listed, and a person's word on it is done by the next resume."""

import asyncio

import pytest

from obzen_runtime.events import DeliveryIntent, RunStarted
from obzen_runtime.journal import RunDirectory, SegmentJournal
from tests.cli.kit import HEAD, refused

MAIL = (
    HEAD
    + """
class Cut(BaseException):
    pass


@oz.sink(delivery="sensitive")
def send(n: int) -> None:
    with Path("sent").open("a") as file:
        file.write(f"{n} ")
    if n == 3 and not Path("cut").exists():
        Path("cut").touch()
        raise Cut


flow = oz.Flow("mail", numbers(count=6) >> send)
"""
)


@pytest.fixture
def mail(obzen):
    """A run that drained with one delivery in doubt."""
    ended = obzen.run(MAIL, "--run-id", "mail", "--quiet")
    assert ended.code == 0, ended.err
    return obzen


def sent(obzen):
    return (obzen.folder / "sent").read_text().split()


def test_a_delivery_in_doubt_is_told_at_the_end_of_the_run_and_listed(obzen):
    ended = obzen.run(MAIL, "--run-id", "mail")
    assert "1 delivery in doubt" in ended.err
    assert "obzen resolve runs/mail" in ended.err
    listed = obzen("resolve", "mail")
    assert listed.code == 0
    assert listed.out.split()[:2] == ["send", "numbers@3"]
    assert listed.out.rstrip().endswith("in doubt  3")
    assert "STAGE EVENT --as delivered|deliver|dead" in listed.err
    (line,) = obzen("resolve", "--last", "--json").lines
    assert (line["stage"], line["event"], line["state"], line["payload"]) == ("send", "numbers@3", "doubted", 3)


def test_one_that_is_to_be_delivered_is_delivered_by_the_next_resume_once(mail):
    decided = mail("resolve", "mail", "send", "numbers@3", "--as", "deliver")
    assert (decided.code, decided.out) == (0, "send numbers@3: decided: to be delivered by the next resume\n")
    assert "obzen resume runs/mail" in decided.err
    assert "to be delivered by the next resume" in mail("resolve", "mail").out
    for _ in range(2):
        assert mail("resume", "mail").code == 0
        assert sent(mail) == ["0", "1", "2", "3", "4", "5", "3"]
    assert mail("resolve", "mail").out == ""
    assert mail("journal", "check", "mail").code == 0


def test_one_that_is_given_up_becomes_a_dead_letter_of_the_next_resume(mail):
    assert mail("resolve", "--last", "send", "numbers@3", "--as", "dead").code == 0
    ended = mail("resume", "mail")
    assert ended.code == 0
    assert "1 dead letter" in ended.err
    assert "doubt" not in ended.err
    assert sent(mail) == ["0", "1", "2", "3", "4", "5"]
    assert "numbers@3" in mail("inspect", "mail", "--type", "dead_letter").out


def test_one_that_was_delivered_is_settled_at_once(mail):
    assert mail("resolve", "mail", "send", "numbers@3", "--as", "delivered").code == 0
    listed = mail("resolve", "mail")
    assert (listed.code, listed.out, listed.err) == (0, "", "no delivery is in doubt\n")
    assert mail("resume", "mail").code == 0
    assert sent(mail) == ["0", "1", "2", "3", "4", "5"]


def test_what_is_not_in_doubt_and_what_says_nothing_is_refused(mail):
    refused(mail("resolve", "mail", "send", "numbers@2", "--as", "dead"), 64, "no delivery of numbers@2 by send", "send numbers@3")
    refused(mail("resolve", "mail", "send", "three", "--as", "dead"), 64, "'three' names no event", "orders@17")
    refused(mail("resolve", "mail", "send", "numbers@3", "--as", "lost"), 64, "--as 'lost' is not an outcome", "--as deliver")
    refused(mail("resolve", "mail", "send", "numbers@3"), 64, "no outcome is given")
    refused(mail("resolve", "mail", "send", "--as", "dead"), 64, "no delivery is named")
    refused(mail("resolve"), 64, "no run is named")
    refused(mail("resolve", "gone"), 64, "gone")


def test_a_run_that_lives_is_not_written_to(obzen):
    async def begun():
        journal = SegmentJournal.open(RunDirectory.create(obzen.folder, "alive").path)
        journal.append([RunStarted("alive", "f", 1), DeliveryIntent("send", 1, "numbers", 3)])
        refused(await asyncio.to_thread(obzen, "resolve", "./alive", "send", "numbers@3", "--as", "dead"), 75, "is running")
        listed = await asyncio.to_thread(obzen, "resolve", "./alive")
        await journal.close()
        return listed

    listed = asyncio.run(begun())
    assert "cut off in its call" in listed.out
    assert "the run lives" in listed.err
