"""Classes whose annotations are postponed: text until somebody asks."""

from __future__ import annotations

import msgspec

import obzen_runtime as oz


class Go(msgspec.Struct, frozen=True):
    pass


class Lost(msgspec.Struct, frozen=True):
    pass


def make(*, with_row: bool) -> type[oz.SelfSupervised[None]]:
    rows = [oz.on(Go, "idle", "busy"), *([oz.on(Lost, "*", "broken")] if with_row else [])]

    class Made(oz.SelfSupervised[None]):
        machine = oz.Machine("m", initial="idle", table=rows)

        async def dispatch_state(self, state: str, context: None) -> oz.Directive:
            return oz.Terminate(state)

        def event_for_action_error(self, error: NotEvenImported) -> Lost:  # noqa: F821 - only the returned type is asked for
            return Lost()

    return Made


def local() -> type[oz.SelfSupervised[None]]:
    class Here(msgspec.Struct, frozen=True):
        pass

    class Made(oz.SelfSupervised[None]):
        machine = oz.Machine("m", initial="idle", table=[oz.on(Go, "idle", "busy"), oz.on(Here, "*", "broken")])

        async def dispatch_state(self, state: str, context: None) -> oz.Directive:
            return oz.Terminate(state)

        def event_for_action_error(self, error: oz.ErrorInfo) -> Here:
            return Here()

    return Made
