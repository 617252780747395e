"""Flights to a CSV of every late departure and one of the totals per state: a join, a keyed state, two files."""

from pathlib import Path

import msgspec

import obzen_runtime as oz
from obzen_runtime.connect import csv_sink, csv_source, json_source

DATA = Path(__file__).parents[2] / "examples" / "data"


class Flight(msgspec.Struct, frozen=True):
    date: str
    delay: int
    distance: int
    origin: str
    destination: str


class Airport(msgspec.Struct, frozen=True):
    iata: str
    name: str
    city: str
    state: str
    country: str
    latitude: float
    longitude: float


class Departure(msgspec.Struct, frozen=True):
    state: str
    city: str
    minutes: int


class Total(msgspec.Struct, frozen=True):
    state: str
    flights: int
    minutes: int


@oz.transform
def late(flight: Flight, *, minutes: int = 15) -> Flight | None:
    return flight if flight.delay > minutes else None


@oz.join(how="inner", stream_key=lambda flight: flight.origin, reference_key=lambda airport: airport.iata)
def locate(flight: Flight, airport: Airport) -> Departure:
    return Departure(airport.state, airport.city, flight.delay)


@oz.stateful(key=lambda departure: departure.state, emit=oz.at_end())
class PerState:
    flights: int = 0
    minutes: int = 0

    def fold(self, departure: Departure) -> None:
        self.flights += 1
        self.minutes += departure.minutes

    def emit(self, state: str) -> Total:
        return Total(state, self.flights, self.minutes)


flow = oz.Flow(
    "flights",
    csv_source("airports", Airport, path=DATA / "airports.csv") >> locate.reference,
    json_source("flights", Flight, path=DATA / "flights-20k.json") >> late >> locate.stream,
    locate >> csv_sink("departures", Departure, path=Path("departures.csv")),
    locate >> PerState >> csv_sink("totals", Total, path=Path("totals.csv")),
)
