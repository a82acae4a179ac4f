"""What the image's health check asks of which command."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def health_url() -> Callable[[list[str]], str | None]:
    """The check's function, out of its file: the image holds it outside the packages."""
    spec = importlib.util.spec_from_file_location("health", Path(__file__).parents[2] / "docker/health.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.health_url


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("/opt/msr/bin/python /opt/msr/bin/msr serve /bundle", "http://127.0.0.1:8000/readyz"),
        ("/sbin/docker-init -- msr serve /bundle --port 9000", "http://127.0.0.1:9000/readyz"),
        ("python msr serve ring=/ring hex=/hex --host=0.0.0.0 --port=81", "http://127.0.0.1:81/readyz"),
        ("python msr serve /bundle --host :: --token-file /run/token", "http://[::1]:8000/readyz"),
        ("python msr serve /bundle --host 10.0.0.7", "http://10.0.0.7:8000/readyz"),
        ("python msr info serve", None),
        ("python msr train ring-nav /runs/serve", None),
        ("python msr", None),
        ("sh", None),
    ],
)
def test_only_a_server_is_asked(health_url: Callable[[list[str]], str | None], command: str, url: str | None) -> None:
    assert health_url(command.split()) == url
