"""A small bundle for the example programs."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ring_bundle(ring_run: Path) -> Path:
    """The bundle of a ring-nav network that was trained for a few outer steps. Read only."""
    return ring_run / "bundle"
