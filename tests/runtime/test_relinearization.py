"""When the first samples of a stream are linearized again."""

from msr_runtime.relinearization import due


def test_as_often_as_the_samples_have_grown_by_a_half() -> None:
    """The powers of two and what lies between them, and never beyond the limit."""
    assert [n for n in range(100) if due(n, 16)] == [2, 3, 4, 6, 8, 12, 16]
    assert [n for n in range(100) if due(n, 63)] == [2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert not any(due(n, 0) for n in range(100))
