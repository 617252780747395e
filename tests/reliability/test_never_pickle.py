"""What is read back is decoded by a schema, never by pickle: whoever can write a file must not be able to run code.

That no module of ours imports what unpickles is a rule of the house: `tests/house/checks.py`.
"""

import pickle

import pytest


@pytest.mark.parametrize("reading", [lambda: pickle.loads(b"N."), lambda: pickle.load(None), lambda: pickle.Unpickler(None)])
def test_the_suite_runs_with_pickle_taken_away(reading):
    with pytest.raises(AssertionError, match="unpickled"):
        reading()
