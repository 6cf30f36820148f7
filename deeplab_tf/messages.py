"""Messages to users: errors that they can fix, warnings, and counts in words."""

import sys


class UserError(Exception):
    """An error that the user can fix; entry points print its sentence and exit with status 1."""


def warn(sentence: str) -> None:
    """Prints a warning to standard error."""
    print(f"Warning: {sentence}", file=sys.stderr)


def counted(number: int, noun: str, *, grouped: bool = False) -> str:
    """Returns a number with its noun, such as "1 image", "2 images" or "2 classes".

    Args:
      grouped: whether commas separate the thousands.
    """
    ending = "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:{',' if grouped else ''}} {noun}{'' if number == 1 else ending}"


def shortened(text: str, *, most: int = 160) -> str:
    """Returns a text, or the start of a long one and how long it is."""
    if len(text) <= most:
        return text
    return f"{text[:most]}... ({len(text)} characters)"
