"""Each test has a directory of its own as the current one, and leaves no modules and no paths behind."""

import sys

import pytest

from tests.cli.kit import Command


@pytest.fixture
def obzen(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    yield Command(tmp_path, capsys)
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
