"""specrt chat: a conversation, from a terminal or line by line from a pipe."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from specrt.cli.line_reader import history_file, piped_turns, typed_turns
from specrt.cli.options import (
    add_bundle,
    add_drafting,
    add_method,
    add_sampling,
    add_threads,
    named_bundle,
    sampling_params,
)
from specrt.cli.screen import Screen
from specrt.cli.summary import summary
from specrt.conversation import Message
from specrt.llm import LLM
from specrt.outputs import RequestOutput
from specrt.sampling_params import SamplingParams

HELP = "have a conversation"
_DESCRIPTION = """\
Talks with a model. Answers go to stdout as they are generated, a line about their speed to stderr.
A line that ends with a backslash goes on in the next one. /help lists the commands. Ctrl-C ends an
answer, Ctrl-D the chat. If stdin is not a terminal, every line of it is a turn."""
_EPILOG = """examples:
  %(prog)s demo
  %(prog)s BUNDLE --system "Answer in one sentence." --temperature 0.7
  printf 'Name a fruit.\\nName another one.\\n' | %(prog)s demo --max-tokens 32 --no-stats
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    add_bundle(parser)
    parser.add_argument("--system", metavar="TEXT", default="", help="the system message")
    add_method(parser)
    add_drafting(parser)
    add_sampling(parser, max_tokens=None)
    parser.add_argument("--no-stats", action="store_true", help="no line about speed on stderr")
    parser.add_argument(
        "--no-history",
        action="store_true",
        help="do not keep typed lines in $XDG_STATE_HOME/specrt (readable by you alone)",
    )
    add_threads(parser)


def run(args: argparse.Namespace) -> int:
    """Talks until the input ends."""
    params = sampling_params(args)
    llm = LLM(
        named_bundle(args.bundle),
        args.method,
        num_speculative_tokens=args.num_speculative_tokens,
        threads=args.threads,
    )
    if not llm.tokenizer.has_chat_template:
        raise ValueError(
            f"{args.bundle} has no chat template, so it cannot tell turns apart; complete plain "
            f"text with: specrt generate {args.bundle} --raw"
        )
    screen = Screen()
    chat = Chat(llm, params, screen, system=args.system, shows_stats=not args.no_stats)
    if not screen.is_interactive:
        for line in piped_turns():
            if not chat.take(line):
                break
        return 0
    screen.note(f"{args.bundle}, {llm.method} decoding; /help lists commands, Ctrl-D ends")
    for line in typed_turns(None if args.no_history else history_file()):
        try:
            if not chat.take(line):
                break
        except ValueError as error:
            screen.note(str(error))
    return 0


class Turn(NamedTuple):
    """A message of the user and its answer."""

    message: str
    answer: str


@dataclass
class Chat:
    """A conversation so far. The whole of it is the prompt of every answer."""

    llm: LLM
    params: SamplingParams
    screen: Screen
    system: str = ""
    shows_stats: bool = True
    turns: Sequence[Turn] = ()

    def take(self, line: str) -> bool:
        """Answers a message or runs a command; False after the command that ends the chat.

        Raises:
            ValueError: there is no such command, or the conversation cannot be answered; it is
                then as it was before.
        """
        if not line.strip():
            return True
        if not line.startswith("/"):
            self._answer(self.turns, line)
        elif line.startswith("//"):
            self._answer(self.turns, line[1:])
        else:
            name, _, text = line.partition(" ")
            if name == "/exit":
                return False
            if name not in _COMMANDS:
                raise ValueError(f"there is no command {name}; /help lists them")
            _COMMANDS[name](self, text.strip())
        return True

    def reset(self, _text: str) -> None:
        """Drops all turns."""
        self.turns = ()
        self.screen.note("[all turns are dropped]")

    def set_system(self, text: str) -> None:
        """Sets or removes the system message."""
        self.system = text
        self.screen.note(f"[the system message is {'set' if text else 'removed'}]")

    def retry(self, _text: str) -> None:
        """Answers the last message again."""
        if not self.turns:
            raise ValueError("there is no message to answer again")
        self._answer(self.turns[:-1], self.turns[-1].message)

    def undo(self, _text: str) -> None:
        """Drops the last turn."""
        if not self.turns:
            raise ValueError("there is no turn to drop")
        self.turns = self.turns[:-1]
        self.screen.note(f"[the last turn is dropped; {len(self.turns)} left]")

    def show_help(self, _text: str) -> None:
        """Lists the commands."""
        self.screen.note(_HELP_TEXT)

    def _answer(self, turns: Sequence[Turn], message: str) -> None:
        """Answers `message` behind `turns`, which become the conversation with it."""
        prompt_ids = self.llm.tokenizer.encode_chat(self._messages(turns, message))
        context = self.llm.core.context
        if len(prompt_ids) >= context:
            raise ValueError(
                f"the conversation would have {len(prompt_ids)} tokens, but the context of "
                f"{context} leaves room for {context - 1}; this message was not added. /reset "
                "drops all turns, /undo the last one"
            )
        text, output = self._stream(prompt_ids)
        if output is None and not text:
            self.screen.note("[cancelled before the answer began; nothing was added]")
            return
        self.turns = (*turns, Turn(message, text))
        if output is None:
            self.screen.note("[cancelled; the answer so far is kept, /undo drops it]")
            return
        if self.shows_stats:
            self.screen.note(summary(output))
        if len(prompt_ids) + len(output.token_ids) >= context:
            self.screen.note(f"[the context of {context} tokens is full; /reset starts afresh]")

    def _messages(self, turns: Sequence[Turn], message: str) -> list[Message]:
        messages: list[Message] = []
        if self.system:
            messages.append({"role": "system", "content": self.system})
        for turn in turns:
            messages.append({"role": "user", "content": turn.message})
            messages.append({"role": "assistant", "content": turn.answer})
        return [*messages, {"role": "user", "content": message}]

    def _stream(self, prompt_ids: list[int]) -> tuple[str, RequestOutput | None]:
        """Prints an answer as it comes; without an output if the user cancelled it."""
        pieces: list[str] = []
        output = None
        try:
            for chunk in self.llm.stream(prompt_ids, self.params):
                pieces.append(chunk.text)
                self.screen.write(chunk.text)
                output = chunk.output
        except KeyboardInterrupt:
            if not self.screen.is_interactive:
                raise
        self.screen.write("\n")
        return "".join(pieces), output


_COMMANDS: dict[str, Callable[[Chat, str], None]] = {
    "/reset": Chat.reset,
    "/system": Chat.set_system,
    "/retry": Chat.retry,
    "/undo": Chat.undo,
    "/help": Chat.show_help,
}
_HELP_TEXT = """\
/reset        drop all turns
/system TEXT  set the system message; without TEXT remove it
/retry        answer the last message again
/undo         drop the last turn
/help         this list
/exit         end the chat, as Ctrl-D does
A message that begins with a slash is written with two. A line that ends with \\ goes on."""
