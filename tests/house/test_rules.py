"""The house rules, held over the package as it stands. `test_checks.py` shows that each can fail."""

import pytest

from tests.house import checks
from tests.house.checks import PACKAGE, ROOT

MODULES = checks.modules()

MANY_PARAMETERS: dict[str, str] = {}
"""`module:function` that takes more parameters than the rule allows, each with the reason."""

NOT_OURS = {".venv", ".git", "build", "dist", "runs"}


def held(rule, modules=MODULES):
    assert [complaint for module in modules for complaint in rule(module)] == []


@pytest.mark.parametrize(
    "rule",
    [
        checks.too_long,
        checks.without_docstring,
        checks.nameless,
        checks.long_functions,
        checks.wide_classes,
        checks.lazy_imports,
        checks.hidden_imports,
        checks.doors,
        checks.mute_excepts,
        checks.unsafe_imports,
        checks.stray_transitions,
    ],
    ids=lambda rule: rule.__name__,
)
def test_every_module_keeps_the_rule(rule):
    held(rule)


def test_functions_take_few_parameters_and_the_exceptions_are_still_needed():
    found = {name for module in MODULES for name in checks.many_parameters(module)}
    assert found - MANY_PARAMETERS.keys() == set(), "make a frozen options struct beside what it sets"
    assert MANY_PARAMETERS.keys() - found == set(), "no longer an exception"
    assert all(MANY_PARAMETERS.values())


def test_every_door_names_all_it_shows():
    held(checks.door_names, [module for module in MODULES if module.is_package])


def test_every_folder_is_a_package_with_a_door():
    packages = {module.name for module in MODULES if module.is_package}
    assert {module.name.rpartition(".")[0] for module in MODULES if "." in module.name} <= packages


def test_no_test_sleeps():
    held(checks.sleeps, checks.modules(ROOT / "tests"))


def test_no_file_names_a_place_of_one_machine():
    files = [
        path
        for pattern in ("*.py", "*.pyi", "*.md", "*.toml", "*.html", "*.js", "*.css", "*.yml", "Makefile", "run")
        for path in ROOT.rglob(pattern)
        if not NOT_OURS & set(path.relative_to(ROOT).parts) and path.is_file()
    ]
    assert ROOT / PACKAGE / "__init__.py" in files
    assert [told for path in files for told in checks.machine_paths(str(path.relative_to(ROOT)), path.read_text(errors="replace"))] == []


def test_the_package_says_that_it_is_typed():
    assert (ROOT / PACKAGE / "py.typed").exists()
