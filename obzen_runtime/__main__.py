"""`python -m obzen_runtime` is the command `obzen`."""

from obzen_runtime.cli import main

if __name__ == "__main__":
    main()
