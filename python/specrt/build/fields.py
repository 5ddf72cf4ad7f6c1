"""Typed, bounded access to the keys of a JSON object; null counts as missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from specrt.build.errors import BuildError

_SMALLEST, _LARGEST = 1e-30, 1e30  # far inside of float32


@dataclass(frozen=True)
class Fields:
    """Keys of one object. Every method raises BuildError that starts with `origin`."""

    origin: str
    values: Mapping[str, Any]

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise BuildError(f"{self.origin}: {key} is missing")
        return value

    def integer(self, key: str, most: int, default: int | None = None) -> int:
        """Return an integer from 1 to `most`."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise BuildError(f"{self.origin}: {key} = {value!r} is not an integer, 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a number above zero that float32 holds."""
        value = self._value(key, default)
        valid = isinstance(value, int | float) and not isinstance(value, bool)
        if not valid or not _SMALLEST <= value <= _LARGEST:
            raise BuildError(f"{self.origin}: {key} = {value!r} is not a number above zero")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise BuildError(f"{self.origin}: {key} = {value!r} is neither true nor false")
        return value
