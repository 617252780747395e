"""What a run writes down of what it runs on."""

import platform
from importlib.metadata import version

from obzen_runtime.kernel import VERSION, versions


def test_versions_name_python_the_runtime_and_its_codec():
    assert versions() == {"python": platform.python_version(), "obzen": VERSION, "msgspec": version("msgspec")}
