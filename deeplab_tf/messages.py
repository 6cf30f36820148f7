"""Messages to users: errors that they can fix, warnings, and counts in words."""

import sys


class UserError(Exception):
    """An error that the user can fix; entry points print its sentence and exit with status 1."""


def warn(sentence: str) -> None:
    """Prints a warning to standard error."""
    print(f"Warning: {sentence}", file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image" or "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shortened(text: str, *, most: int = 160) -> str:
    """Returns a text, or the start of a long one and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text)} characters)"
