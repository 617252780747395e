"""The command `obzen`: parse arguments, call the floors beneath, print. Nothing is decided here that a program could not do."""

from obzen_runtime.cli.app import main

__all__ = ["main"]
