"""The one error that is the user's: bad usage or bad input."""


class InputError(Exception):
    """One line saying what was wrong, where, and what to do; the command line exits with code 2."""
