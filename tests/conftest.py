"""What every test shares: property tests without deadlines, because the machine may be busy, and no pickle anywhere."""

import pickle
from typing import NoReturn

from hypothesis import settings

settings.register_profile("obzen", deadline=None, print_blob=True)
settings.load_profile("obzen")


def _refuse(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError("something is unpickled; nothing here may be")


pickle.loads = pickle.load = _refuse  # type: ignore[assignment]
pickle.Unpickler = pickle._Unpickler = _refuse  # type: ignore[assignment,misc,attr-defined]
