"""Structs into one state per customer, which speaks at each of them: JSON Lines out, as many lines as orders."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import jsonl_sink


class Order(msgspec.Struct, frozen=True):
    number: int
    customer: int
    price: float
    product: str
    city: str
    state: str


class Account(msgspec.Struct, frozen=True):
    customer: int
    orders: int
    spent: float


@oz.source
def orders(count: int = 2_000_000, start: oz.Offset = None) -> Iterator[oz.At[int, Order]]:
    for number in range(start or 0, count):
        order = Order(number, number * 7919 % 1000, number % 977 / 4, f"p{number % 50}", f"city{number % 300}", "new")
        yield oz.At(number + 1, order)


@oz.transform
def taxed(order: Order) -> Order:
    return Order(order.number, order.customer, order.price * 1.25, order.product, order.city, "taxed")


@oz.stateful(key=lambda order: order.customer, emit=oz.each())
class Accounts:
    orders: int = 0
    spent: float = 0.0

    def fold(self, order: Order) -> None:
        self.orders += 1
        self.spent += order.price

    def emit(self, customer: int) -> Account:
        return Account(customer, self.orders, self.spent)


flow = oz.Flow("orders", orders >> taxed >> Accounts >> jsonl_sink("accounts", Account, path=Path("accounts.jsonl")))
