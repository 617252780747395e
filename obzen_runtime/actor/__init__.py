"""Actors: the mailbox, the one loop, supervision, the watchdog."""

from obzen_runtime.actor.directives import Actor, Continue, Control, Directive, Ended, Ground, Terminate, Transition
from obzen_runtime.actor.loop import drive
from obzen_runtime.actor.mailbox import Mailbox, Stop, Urgency
from obzen_runtime.actor.outlast import outlast
from obzen_runtime.actor.supervised import SelfSupervised
from obzen_runtime.actor.supervision import Intensity, Restart, Strategy, affected
from obzen_runtime.actor.watch import EXIT_HELD, Watchdog

__all__ = [
    "EXIT_HELD",
    "Actor",
    "Continue",
    "Control",
    "Directive",
    "Ended",
    "Ground",
    "Intensity",
    "Mailbox",
    "Restart",
    "SelfSupervised",
    "Stop",
    "Strategy",
    "Terminate",
    "Transition",
    "Urgency",
    "Watchdog",
    "affected",
    "drive",
    "outlast",
]
