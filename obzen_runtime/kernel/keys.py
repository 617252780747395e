"""The key under which a call may be repeated: whoever is called knows the same work again by it and does it once."""

from typing import Self

__all__ = ["IdempotencyKey"]


class IdempotencyKey(str):
    """Text that is the same at every try of one piece of work, in this process and in every later one.

    A sink's key is `RUN/SINK/UPSTREAM@ORDINAL`, where RUN is the run that the event was born in. Hand it to the other
    side as it is; a prefix of your own may go before it, nothing else may be changed.
    """

    __slots__ = ("attempt",)

    attempt: int
    """The try this is, from 1, counted since the stage was last started: a crash begins anew, the text stays."""

    def __new__(cls, text: str, attempt: int = 1) -> Self:
        key = super().__new__(cls, text)
        key.attempt = attempt
        return key
