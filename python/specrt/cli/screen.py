"""What a chat shows: answers on stdout, notes on stderr."""

import sys

# Control characters could move the cursor or worse; line breaks and tabs are text.
_CONTROLS = [c for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\t\n"]
_HARMLESS = dict.fromkeys(_CONTROLS, "\N{REPLACEMENT CHARACTER}")


class Screen:
    """A terminal, or files that get the text as it is."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty() and sys.stdout.isatty()

    def write(self, text: str) -> None:
        """A piece of an answer, at once."""
        sys.stdout.write(text.translate(_HARMLESS) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A line about the conversation, dim on a terminal."""
        print(f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text, file=sys.stderr)
        sys.stderr.flush()
