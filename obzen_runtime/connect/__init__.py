"""Sources and sinks for what is outside: files of CSV, JSON and JSON Lines, tables of SQLite."""

from obzen_runtime.connect.csv import csv_sink, csv_source
from obzen_runtime.connect.json import json_sink, json_source
from obzen_runtime.connect.jsonl import jsonl_sink, jsonl_source
from obzen_runtime.connect.sqlite import sqlite_sink

__all__ = ["csv_sink", "csv_source", "json_sink", "json_source", "jsonl_sink", "jsonl_source", "sqlite_sink"]
