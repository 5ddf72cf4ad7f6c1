"""What a run found, and the JSON file that holds it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Prediction:
    """A number written down before the run.

    Attributes:
        value: what is expected.
        unit: of the value.
        basis: where it comes from, in a few words.
    """

    value: float
    unit: str
    basis: str


@dataclass(frozen=True)
class Reading:
    """A measured number.

    Attributes:
        name: dotted, from the general to the special: "8b.step.r1".
        value: what was measured.
        unit: of the value.
        bytes: device memory that has to move in that time; 0 where this means nothing.
    """

    name: str
    value: float
    unit: str
    bytes: float = 0.0


@dataclass(frozen=True)
class StageResult:
    """How a stage ended.

    Attributes:
        name: of the stage.
        status: "passed", "failed", "unavailable" (a tool is missing), "timeout" or "skipped" (the
            whole run's budget was spent).
        seconds: it took.
        budget: seconds it had.
        reason: why it did not pass, in one line.
    """

    name: str
    status: str
    seconds: float
    budget: float
    reason: str = ""


@dataclass
class Results:
    """Everything of a run, in the order in which it came."""

    facts: dict[str, str]
    predictions: dict[str, Prediction]
    stages: list[StageResult] = field(default_factory=list)
    readings: dict[str, Reading] = field(default_factory=dict)

    def add(self, reading: Reading) -> None:
        """Keeps a reading; a later one of the same name replaces it."""
        self.readings[reading.name] = reading

    def value(self, name: str) -> float | None:
        """The reading of that name, if it was measured."""
        reading = self.readings.get(name)
        return None if reading is None else reading.value

    def share_of_copy(self, name: str) -> float | None:
        """The memory bandwidth of a reading, over what a copy reached in the same run."""
        reading, copy = self.readings.get(name), self.value("ceiling.copy")
        if reading is None or not copy or not reading.bytes or not reading.value:
            return None
        seconds = reading.value * {"ms": 1e-3, "us": 1e-6}[reading.unit]
        return reading.bytes / seconds / (copy * 1e9)

    def to_json(self) -> dict[str, Any]:
        """Readings next to their predictions, and the predictions of what was not measured."""
        readings = []
        for reading in self.readings.values():
            row: dict[str, Any] = asdict(reading)
            prediction = self.predictions.get(reading.name)
            row["predicted"] = None if prediction is None else prediction.value
            row["share_of_copy"] = self.share_of_copy(reading.name)
            readings.append(row)
        return {
            "format": FORMAT,
            **self.facts,
            "stages": [asdict(stage) for stage in self.stages],
            "readings": readings,
            "predictions": {name: asdict(value) for name, value in self.predictions.items()},
        }

    def write(self, path: Path) -> None:
        """Replaces the file in one step, so that an interrupted run leaves a whole one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
