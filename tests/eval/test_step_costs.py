"""Step curves as a manifest keeps them."""

import pytest
from specrt import Error
from specrt.eval.step_costs import StepCurve, step_costs, step_curve, step_curves
from specrt.methods import DRAFTERS


def test_curve_is_linear_between_points_and_level_outside() -> None:
    curve = StepCurve(((2, 1.0), (4, 3.0), (8, 4.0)))
    assert [curve.at(n) for n in (1, 2, 3, 4, 6, 8, 64)] == [1.0, 1.0, 2.0, 3.0, 3.5, 4.0, 4.0]


def test_curves_of_a_manifest() -> None:
    curves = {"step_ms": {"target": {"1": 10, "16": 10.0}, "draft": {"1": 1.0}}}
    costs = step_costs(curves)
    assert costs is not None
    assert (costs.target.at(4), costs.draft.at(1)) == (10.0, 1.0)
    assert step_costs({"step_ms": {"target": {"1": 10}}}) is None


def test_every_drafter_has_its_curve() -> None:
    steps = {name: {"1": 1.0 + i} for i, name in enumerate(("target", *DRAFTERS))}
    found = step_curves({"step_ms": steps})
    assert {name: curve.at(1) for name, curve in found.items()} == {
        name: ms["1"] for name, ms in steps.items()
    }
    assert "eagle" in found


@pytest.mark.parametrize(
    "damaged",
    [None, [], {}, {"x": 1}, {"1": "y"}, {"1": None}, {"1": -1}, {"0": 1}, {"1": 10**400}],
)
def test_damaged_curves_are_refused(damaged: object) -> None:
    with pytest.raises(Error, match="specrt tune"):
        step_curve(damaged)
    with pytest.raises(Error, match="specrt tune"):
        step_costs({"step_ms": {"target": damaged, "draft": {"1": 1}}})
