"""What programs tell their users: mistakes they can mend, warnings, numbers of things."""

import sys


class UserError(Exception):
    """A mistake the user can mend; entry points print its one sentence and exit with status 1."""


def warn(sentence: str) -> None:
    """Prints a warning of a builder."""
    print(f"Warning: {sentence}", file=sys.stderr)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 image" or "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
