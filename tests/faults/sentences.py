"""What a user may be told: one sentence of one line that any terminal can print."""

_LONGEST = 1200  # characters; paths and lists of what is allowed may be long


def require_one_sentence(error: Exception) -> None:
    """Fails unless the error's message is one line of a reasonable length."""
    told = str(error)
    assert told and "\n" not in told and len(told) < _LONGEST, told
    told.encode()
