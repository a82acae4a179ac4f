"""Where an adaptation may begin."""

import pytest

from msr_runtime import InputError
from msr_runtime.adaptation.start import check_start


@pytest.mark.parametrize("start", ["v0", "accepted"])
def test_the_two_places_to_begin_pass(start: str) -> None:
    """Neither raises."""
    check_start(start)


@pytest.mark.parametrize("start", ["v1", "", None, 0])
def test_any_other_place_is_refused_with_the_two_that_exist(start: object) -> None:
    """The error shows the value seen and both values wanted."""
    with pytest.raises(InputError, match=f"start is {start!r}, but 'v0' or 'accepted' is wanted"):
        check_start(start)
