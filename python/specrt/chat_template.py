"""Chat templates: the jinja2 program of a model that turns messages into its prompt.

A template comes with a model and is not trusted. jinja2's sandbox keeps it away from Python's
internals but does not bound what it does. Here every turn of a loop, every text and every container
is paid for out of a budget, so a hostile template ends with an error and not with the memory.

The dialect is that of transformers' renderer, without the filters and methods of text that no chat
template needs and that make much out of little (`center`, `expandtabs`, `batch`, ...).
"""

import functools
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import GeneratorType
from typing import Any, TypeVar

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_TEMPLATE_CHARACTERS = 1 << 17  # jinja2 compiles about 40,000 a second

_BUDGET = 1 << 22  # characters made, and turns of loops
_BUDGET_PER_CHARACTER = 256  # of the messages: templates copy their texts a few times
_MAX_CPU_SECONDS = 1.0
_MAX_INTEGER_BITS = 4096
_MAX_INDENT = 16
_MAX_DATE_FORMAT = 100
_MAX_ERROR_CHARACTERS = 300

# Filters whose result is not larger than what they are given; others are defined in _Sandbox.
_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
    *("float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "string", "title"),
    *("trim", "truncate", "unique", "upper", "urlencode", "wordcount"),
)
_REFUSED_METHODS = frozenset(
    (
        *("center", "encode", "expandtabs", "ljust", "rjust", "striptags", "to_bytes"),
        *("translate", "zfill"),
    )
)
_WIDE_FIELD = re.compile(r"\*|\d{4}")

_Value = TypeVar("_Value")


class ChatTemplate:
    """A template, compiled; threads may share it.

    Raises:
        ValueError: it is too long, or not a template.
    """

    def __init__(self, source: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError(
                f"the chat template has {len(source)} characters; at most "
                f"{MAX_TEMPLATE_CHARACTERS} are read"
            )
        self._one_at_a_time = threading.Lock()  # the sandbox holds one budget
        self._sandbox = _Sandbox()
        self._sandbox.begin(0)
        try:
            tree = self._sandbox.parse(source)
            _Metering().visit(tree)
            tree.set_lineno(1).set_environment(self._sandbox)
            self._template = self._sandbox.from_string(tree)
        except Exception as error:  # the compiler of a hostile template may raise anything
            raise _failure(error) from None

    def render(self, messages: Sequence[Mapping[str, Any]], **variables: object) -> str:
        """The prompt; `messages` and `variables` are plain data that the template may read.

        Raises:
            ValueError: the template refuses the messages, is wrong, or does too much.
        """
        with self._one_at_a_time:
            self._sandbox.begin(_size(messages, 1 << 62))
            try:
                return self._template.render(messages=messages, **variables)
            except Exception as error:  # as above
                raise _failure(error) from None


def _failure(error: Exception) -> ValueError:
    text = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"the chat template failed: {text[:_MAX_ERROR_CHARACTERS]}")


def _size(value: object, limit: int) -> int:
    """Characters of `value` as text, roughly; counting ends above `limit`.

    An item that a container holds twice counts twice, as it does in the text.
    """
    size, left = 0, [value]
    while left and size <= limit:
        item = left.pop()
        size += 1
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, int):
            size += item.bit_length() // 3
        elif isinstance(item, Mapping):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, Collection):
            left.extend(item)
    return size


def _check_bits(bits: int) -> None:
    if bits > _MAX_INTEGER_BITS:
        raise SecurityError("it computes a number that is too large")


class _Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with a budget; `_Metering` adds calls of `charge` to the template."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            finalize=_pay_for_output,
        )
        del self.globals["lipsum"]
        self.globals |= {
            "dict": _make_dict,
            "namespace": _PlainNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        own = (self.format, self.indent, self.join, self.replace, self.tojson)
        self.filters = {name: self._paid(self.filters[name]) for name in _FILTERS}
        self.filters |= {function.__name__: self._paid(function) for function in own}

    def begin(self, characters: int) -> None:
        """Starts a budget for messages of that many characters."""
        self._left = _BUDGET + _BUDGET_PER_CHARACTER * characters
        self._deadline = time.thread_time() + _MAX_CPU_SECONDS

    def charge(self, amount: int) -> None:
        """Takes `amount` characters or turns off the budget."""
        self._left -= amount
        if self._left < 0:
            raise SecurityError("it makes more text than a conversation can need")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it runs for more than {_MAX_CPU_SECONDS:g} s")

    def charge_text(self, *values: object) -> None:
        """Pays for the text of values."""
        self.charge(_size(values, self._left))

    def paid(self, value: _Value) -> _Value:
        """`value`, newly made, paid for; a container pays for its slots and must not be a bomb."""
        if isinstance(value, GeneratorType):
            return self._paid_items(value)  # type: ignore[return-value]
        if isinstance(value, Collection) and not isinstance(value, str):
            self.charge(len(value))
            if _size(value, self._left) > self._left:
                raise SecurityError("it nests more values than a conversation can need")
            return value
        if isinstance(value, int):
            _check_bits(value.bit_length())
        self.charge_text(value)
        return value

    def _paid_items(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.charge(1)
            yield item

    def _paid(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # also copies what jinja2 shall pass to it
        def filtered(*args: Any, **kwargs: Any) -> Any:
            return self.paid(function(*args, **kwargs))

        return filtered

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _REFUSED_METHODS and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if owner is self:  # of _Metering, with keywords that the compiler adds to every call
            return function(*args)
        if isinstance(owner, str) and function.__name__ == "join":
            args = (self._join_items(owner, *args),)
        elif isinstance(owner, str) and function.__name__ == "replace":
            self._charge_replace(owner, *args[:2])
        return self.paid(super().call(context, function, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if operator == "+":
            for side in (left, right):
                self.charge(len(side) if isinstance(side, str | list | tuple) else 1)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(sequence, int):
                    self.charge(max(times, 0) * _size(sequence, self._left))
        return self.paid(super().call_binop(context, operator, left, right))

    def concatenate(self, *parts: object) -> str:
        """The operator ~."""
        self.charge_text(*parts)
        return "".join(map(str, parts))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                [kwargs], args = args, ()
            return _PaidFormatter(self).vformat(str(value.__self__), args, kwargs)

        return formatted

    def _percent(self, pattern: str, values: object) -> str:
        if any(_WIDE_FIELD.search(field) for field in re.findall(r"%[^a-zA-Z%]*", pattern)):
            raise SecurityError("it asks for a field that is too wide")
        self.charge(pattern.count("%") * (1000 + _size(values, self._left)))
        return pattern % values

    def format(self, pattern: object, *args: object, **kwargs: object) -> str:
        """The filter `format`."""
        return self._percent(str(pattern), kwargs or args)

    def indent(
        self, text: object, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        """The filter `indent`."""
        margin = width if isinstance(width, str) else " " * min(width, _MAX_INDENT)
        self.charge(len(margin) * (1 + str(text).count("\n")))
        return do_indent(str(text), margin, first, blank)

    def _join_items(self, separator: str, items: Iterable[object]) -> list[object]:
        kept = list(items)
        self.charge_text(kept)
        self.charge(len(separator) * len(kept))
        return kept

    def join(self, items: Iterable[object], d: object = "") -> str:
        """The filter `join`."""
        return str(d).join(map(str, self._join_items(str(d), items)))

    def _charge_replace(self, text: str, old: object, new: object) -> None:
        self.charge(text.count(str(old)) * len(str(new)))

    def replace(self, text: object, old: object, new: object, count: int = -1) -> str:
        """The filter `replace`."""
        self._charge_replace(str(text), old, new)
        return str(text).replace(str(old), str(new), count)

    def tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """The filter `tojson`; unlike jinja2's it escapes nothing for HTML."""
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii,
            indent=None if indent is None else min(indent, _MAX_INDENT),
            separators=separators,
            sort_keys=sort_keys,
        )
        pieces = []
        for piece in encoder.iterencode(value):
            self.charge(len(piece))
            pieces.append(piece)
        return "".join(pieces)


class _Metering(NodeTransformer):
    """Makes a template pay for turns of loops, its text, containers, slices and the operator ~."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _charge(1))
        return node

    visit_Macro = visit_CallBlock = visit_For  # noqa: N815

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:  # noqa: N802
        self.generic_visit(node)
        texts = [part.data for part in node.nodes if isinstance(part, nodes.TemplateData)]
        return [_charge(sum(map(len, texts))), node] if texts else [node]

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("paid", [node])

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("paid", [node]) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("paid", [node]) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", node.nodes)


def _call(method: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), arguments, [], None, None)


def _charge(amount: int) -> nodes.Node:
    return nodes.ExprStmt(_call("charge", [nodes.Const(amount)]))


class _Generation(Extension):
    """{% generation %} marks an assistant's text for training; its body is what counts here."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _PaidFormatter(SandboxedFormatter):
    """`str.format` with narrow fields."""

    def __init__(self, sandbox: _Sandbox) -> None:
        super().__init__(sandbox)
        self._sandbox = sandbox

    def format_field(self, value: Any, format_spec: str) -> Any:
        if _WIDE_FIELD.search(format_spec):
            raise SecurityError("it asks for a field that is too wide")
        text = super().format_field(value, format_spec)
        self._sandbox.charge_text(text)
        return text


class _PlainNamespace(Namespace):
    """`namespace` without names that mean something to Python; it does not print what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # a template may pass `self`
        Namespace.__init__(*args, **kwargs)
        for name in dict(*args[1:], **kwargs):
            _check_name(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"it sets {name!r}; names of a namespace must not begin with _")


@pass_context
def _pay_for_output(context: Context, value: _Value) -> _Value:
    """What jinja2 calls before a value becomes a part of the prompt."""
    sandbox = context.environment
    assert isinstance(sandbox, _Sandbox)
    sandbox.charge_text(value)
    return value


def _make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> None:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _MAX_DATE_FORMAT:
        raise SecurityError("it asks for a date that is too long")
    return datetime.now().strftime(pattern)
