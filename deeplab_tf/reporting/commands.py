"""Commands of this package, as a shell takes them."""

import shlex


def command(program: str, **settings: object) -> str:
    """Returns a command line; settings without a value are left out.

    Args:
      program: the module's name, such as "eval".
    """
    words = [f"python -m deeplab_tf.{program}"]
    words += [
        f"--{name}={shlex.quote(str(value))}"
        for name, value in settings.items()
        if value not in ("", None)
    ]
    return " ".join(words)
