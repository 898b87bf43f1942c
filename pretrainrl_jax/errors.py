"""The one error that is the user's, bad usage or bad input; and any error in one line."""


class InputError(Exception):
    """One line saying what was wrong, where, and what to do; the command line exits with code 2."""


def first_line(error: BaseException) -> str:
    """An exception in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines[0] else type(error).__name__
