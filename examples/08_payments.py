"""Deliver under a key, and prove it: `obzen simulate 08_payments.py` kills this flow hundreds of times.

The sink says it is keyed: after a crash it may be given a payment again, with the key that it had before. Its stand-in
does to a simulated table what the sink does to the real one. Change `put` to `append`, and the simulation finds the
payment that is stored twice.
"""

import sqlite3
from collections.abc import Iterator

import msgspec

import obzen_runtime as oz
from obzen_runtime.testing import world


class Payment(msgspec.Struct, frozen=True):
    account: str
    cents: int


@oz.source
def payments() -> Iterator[Payment]:
    for number in range(100):
        yield Payment(f"account {number % 7}", 100 + number)


table = sqlite3.connect(":memory:")
table.execute("CREATE TABLE payments (key TEXT PRIMARY KEY, account TEXT, cents INTEGER)")


def upsert(payment: Payment, *, key: oz.IdempotencyKey) -> None:
    world().put("payments", key, payment)


@oz.sink(delivery="keyed", simulate=upsert)
def store(payment: Payment, *, key: oz.IdempotencyKey) -> None:
    table.execute("INSERT OR REPLACE INTO payments VALUES (?, ?, ?)", (key, payment.account, payment.cents))


flow = oz.Flow("pay", payments >> store)

if __name__ == "__main__":
    oz.run(flow, journal=oz.MemoryJournal())
    print("{} payments, {} cents".format(*table.execute("SELECT COUNT(*), SUM(cents) FROM payments").fetchone()))

# expect: 100 payments, 14950 cents
