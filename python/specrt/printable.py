"""Text that comes from a file and goes to a terminal."""


def printable(value: object) -> str:
    """The text of `value`, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
