"""Orders through the FIFO: who hears them, what is no order, and what cannot hold one."""

import asyncio
import os
import stat

import pytest

import obzen_runtime as oz
from obzen_runtime.flow import Cancel, Drain, StopFlow
from obzen_runtime.journal import RunDirectory
from obzen_runtime.orders import ORDERS, Listener, Order, command_of, send
from tests.flow.kit import Seen, forever, same, total


async def heard(directory, *raw, orders=()):
    """What a listener obeys of these bytes and orders, ended by a drain."""
    got, ended = [], asyncio.Event()

    def obey(order):
        got.append(order)
        if order.order == "drain":
            ended.set()

    listener = Listener(directory, obey)
    listener.open(asyncio.get_running_loop())
    for each in raw:
        with (directory / ORDERS).open("wb", buffering=0) as fifo:
            fifo.write(each)
    for order in (*orders, Order("drain")):
        assert send(directory, order)
    await asyncio.wait_for(ended.wait(), 5)
    listener.close()
    return got


def test_each_order_has_its_command():
    assert command_of(Order("stop", 7.0)) == StopFlow("user_stop", 7.0)
    assert command_of(Order("drain")) == Drain()
    assert command_of(Order("cancel")) == Cancel("user_cancel")


async def test_orders_are_obeyed_in_the_order_they_were_given(tmp_path):
    assert await heard(tmp_path, orders=[Order("stop", 3.0), Order("cancel")]) == [Order("stop", 3.0), Order("cancel"), Order("drain")]


@pytest.mark.parametrize(
    "raw", [b"drain\n", b"\xff\xfe\n", b'{"order":"explode"}\n', b'{"order":"stop","within":-1}\n', b"\n", b'{"order":"stop","x":1}\n']
)
async def test_what_is_no_order_is_logged_and_passed_over(tmp_path, raw, caplog):
    assert await heard(tmp_path, raw) == [Order("drain")]
    assert "an order cannot be read" in caplog.text


async def test_an_order_without_an_end_does_not_grow_for_ever(tmp_path):
    got = await heard(tmp_path, b"x" * 3000, b"x" * 3000, b"x" * 3000, b"\n")
    assert got == [Order("drain")]


async def test_nobody_listens_before_it_is_open_and_after_it_is_closed(tmp_path):
    assert not send(tmp_path, Order("stop"))
    await heard(tmp_path)
    assert not send(tmp_path, Order("stop"))
    assert list(tmp_path.iterdir()) == []


async def test_what_a_dead_process_left_is_used_again_and_holds_no_order(tmp_path):
    os.mkfifo(tmp_path / ORDERS, 0o600)
    assert not send(tmp_path, Order("cancel"))
    assert await heard(tmp_path) == [Order("drain")]


async def test_only_the_owner_may_give_orders(tmp_path):
    listener = Listener(tmp_path, lambda order: None)
    listener.open(asyncio.get_running_loop())
    assert stat.S_IMODE((tmp_path / ORDERS).stat().st_mode) == 0o600
    listener.close()
    listener.close()


def test_an_order_follows_no_link_out_of_the_run(tmp_path):
    os.mkfifo(tmp_path / "elsewhere")
    (tmp_path / ORDERS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        send(tmp_path, Order("stop"))


async def test_a_place_that_can_hold_no_fifo_costs_only_the_orders(tmp_path, caplog):
    (tmp_path / ORDERS).write_text("a file")
    listener = Listener(tmp_path, lambda order: None)
    listener.open(asyncio.get_running_loop())
    listener.close()
    assert "takes no orders" in caplog.text
    assert (tmp_path / ORDERS).read_text() == "a file"
    assert not send(tmp_path, Order("stop"))
    Listener(tmp_path / "nowhere", lambda order: None).open(asyncio.get_running_loop())


@pytest.mark.parametrize(("order", "state", "sums"), [("drain", "drained", 1), ("stop", "cancelled", 0), ("cancel", "cancelled", 0)])
async def test_an_embedded_run_on_disk_takes_orders(tmp_path, order, state, sums):
    seen, given = Seen(), Seen()
    flow = oz.Flow("f", forever() >> same() >> [seen.sink("k"), total() >> given.sink("sums")])
    async with oz.start(flow, journal=tmp_path, run_id="r") as handle:
        async for _, _ in handle.records():
            if seen:
                break
        assert send(tmp_path / "r", Order(order))
        report = await handle.wait()
    assert (report.state, len(given)) == (state, sums)
    assert RunDirectory(tmp_path / "r").state() == state
    assert not (tmp_path / "r" / ORDERS).exists()
