"""How much of a group U holds, before and after training."""

from pathlib import Path

import learned_group
import pytest
from learned_group import FORMS, Options, measure
from tables.images import learned_group as lines


def test_each_form_is_trained_and_measured(image_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given the group holds it before the first step, and what shares by it for ever."""
    monkeypatch.setenv("MSR_OMNIGLOT", str(image_file))
    monkeypatch.setattr(learned_group, "FAMILY", "omniglot:size=8,ways=3,turned=true")
    rows = [measure(form, 0, Options(steps=3, episodes=2)) for form in FORMS]
    full, one, _, begun, equivariant = rows
    assert one["held_before"] == pytest.approx(one["held_by_identity"])
    assert full["held_before"] < 0.9
    assert begun["held_before"] == pytest.approx(1, abs=1e-5)
    assert equivariant["held_after"] == pytest.approx(1, abs=1e-5)
    assert begun["held_after"] < begun["held_before"]
    assert [line["U"] for line in lines(rows)] == list(FORMS)
    assert lines(rows)[-1]["held by U"] == "1.00"
