"""Each house rule fed a bad sample: a rule that cannot fail holds nothing."""

import pytest

from tests.house import checks
from tests.house.checks import Module


def complaints(rule, source, name="obzen_runtime.stages.window", **options):
    return list(rule(Module(name, source, **options)))


LONG = "def f():\n" + "    x = 1\n" * 60
WIDE = "class C:\n" + "".join(f"    def m{number}(self): ...\n" for number in range(21))


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (checks.too_long, "x = 1\n" * 601, "x = 1\n" * 600),
        (checks.without_docstring, "x = 1", '"""Why."""'),
        (checks.without_docstring, '""', '"""Why."""\nx = 1'),
        (checks.long_functions, LONG, LONG.replace("    x = 1\n", "", 1)),
        (checks.long_functions, LONG.replace("def", "async def"), "x = 1\n" * 100),
        (checks.many_parameters, "def f(a, b, c, /, d, *, e, f, g): ...", "def f(a, b, c, /, d, *args, e, f, **kwargs): ..."),
        (
            checks.many_parameters,
            "class C:\n    @staticmethod\n    def f(a, b, c, d, e, f, g): ...",
            "class C:\n    def f(self, a, b, c, d, e, f): ...",
        ),
        (checks.many_parameters, "class C:\n  if x:\n    def f(self, a, b, c, d, e, f, g): ...", "class C: ..."),
        (checks.wide_classes, WIDE, WIDE.replace("m0", "_m0")),
        (checks.lazy_imports, "def f():\n    import json", "import json\ndef f(): ..."),
        (
            checks.lazy_imports,
            "class C:\n    async def f(self):\n        if 1:\n            from a import b",
            "try:\n    import x\nfinally: ...",
        ),
        (
            checks.hidden_imports,
            "if typing.TYPE_CHECKING:\n    from obzen_runtime.flow import Flow",
            "if TYPE_CHECKING:\n    from collections import abc",
        ),
        (checks.hidden_imports, "if TYPE_CHECKING:\n    import obzen_runtime.flow", "from obzen_runtime.flow import Flow"),
        (checks.doors, "from obzen_runtime.kernel.errors import X", "from obzen_runtime.kernel import X"),
        (checks.doors, "import obzen_runtime.kernel.errors", "import json.decoder"),
        (checks.doors, "import obzen_runtime", "import obzen_runtime_extras"),
        (checks.doors, "from obzen_runtime import kernel", "from obzen_runtime.stages.base import X"),
        (checks.doors, "from obzen_runtime.stages import X", "from obzen_runtime.events import X"),
        (checks.doors, "from . import base", "import os"),
        (checks.doors, "def f():\n    import obzen_runtime", "def f(): ..."),
        (checks.mute_excepts, "try: ...\nexcept Exception: pass", "try: ...\nexcept Exception as e: log(e)"),
        (checks.mute_excepts, "try: ...\nexcept: x = 1", "try: ...\nexcept OSError: pass"),
        (checks.mute_excepts, "try: ...\nexcept (OSError, BaseException) as e:\n    x = 1", "try: ...\nexcept BaseException:\n    raise"),
        (checks.mute_excepts, "try: ...\nexcept Exception as e: x = None", "try: ...\nexcept Exception: log.exception('x')"),
        (checks.unsafe_imports, "import pickle", "import json"),
        (checks.unsafe_imports, "from dill.source import x", "from pickles import jar"),
        (checks.stray_transitions, "import transitions", "import transition"),
        (checks.stray_transitions, "from transitions.extensions import GraphMachine", "from obzen_runtime.fsm import Machine"),
        (checks.sleeps, "import time\ntime.sleep(0.1)", "import asyncio\nasyncio.sleep(0)"),
        (checks.sleeps, "await_(asyncio.sleep(delay=2))", "clock.sleep(5)"),
        (checks.sleeps, "sleep(1)", "asyncio.sleep(until)"),
    ],
)
def test_a_rule_complains_of_the_bad_sample_and_not_of_the_good(rule, bad, good):
    assert complaints(rule, bad), bad
    assert not complaints(rule, good), good


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("from a import b", "without __all__"),
        ("from a import b, c\n__all__ = ['b']", "not in __all__: c"),
        ("from a import b\n__all__ = ['b', 'c']", "not there: c"),
        ("from a import b\n__all__ = ['b', 'b']", "twice"),
        ("from a import *\n__all__: list[str] = []", "imports *"),
        ("def f(): ...\nclass C: ...\nV = 1\n__all__ = ['f']", "not in __all__: C, V"),
    ],
)
def test_a_door_tells_all_it_binds_and_nothing_else(bad, complaint):
    (told,) = complaints(checks.door_names, bad, is_package=True)
    assert complaint in told


def test_a_door_that_is_right_or_binds_nothing_passes():
    assert not complaints(checks.door_names, '"""Only words."""')
    assert not complaints(checks.door_names, "from a import b as c, _d\nV: int = 1\n__all__ = ['V', 'c']\n__version__ = '1'")


def test_the_front_door_and_a_floor_s_door_may_import_what_they_show():
    assert not complaints(checks.doors, "from obzen_runtime.kernel import X", "obzen_runtime", is_package=True)
    assert complaints(checks.doors, "from obzen_runtime.kernel.errors import X", "obzen_runtime", is_package=True)
    assert not complaints(checks.doors, "from obzen_runtime.kernel.errors import X", "obzen_runtime.kernel", is_package=True)


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "manager", "_utils"])
def test_names_without_an_idea_are_refused(name):
    assert complaints(checks.nameless, "", f"obzen_runtime.{name}")
    assert complaints(checks.nameless, "", f"obzen_runtime.flow.{name}")
    assert not complaints(checks.nameless, "", "obzen_runtime.flow.credit")


def test_transitions_has_its_one_place():
    assert not complaints(checks.stray_transitions, "import transitions", "obzen_runtime.fsm.definition")


@pytest.mark.parametrize("name", ["work", "root", "farm"])
def test_places_of_one_machine_are_seen(name):
    assert list(checks.machine_paths("x.py", f"a\nb = '/{name}/data'")) == ["x.py:2: names a place of one machine"]
    assert not list(checks.machine_paths("x.py", f"{name}/data\nframe{name}/x"))


def test_modules_are_found_with_their_names(tmp_path):
    for path, text in {"p/__init__.py": "a", "p/b.py": "b", "p/q/__init__.py": "", "p/q/c.py": "c"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    found = [(module.name, module.source, module.is_package) for module in checks.modules(tmp_path / "p")]
    assert sorted(found) == [("p", "a", True), ("p.b", "b", False), ("p.q", "", True), ("p.q.c", "c", False)]
