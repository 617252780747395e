"""What every test shares: property tests without deadlines, because the machine may be busy."""

from hypothesis import settings

settings.register_profile("obzen", deadline=None, print_blob=True)
settings.load_profile("obzen")
