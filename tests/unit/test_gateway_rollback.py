"""`roll_back` waits for the endpoints that answer with what it moved, and for no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import scripts.serving
from scripts.serving import roll_back
from serve.application import EndpointState

TRACKING_URI = "http://mlflow:5000"


def endpoint(name: str, *, model: str = "news", alias: str = "champion", uri: str = TRACKING_URI) -> EndpointState:
    return EndpointState(
        name=name,
        url=f"http://127.0.0.1:8000/{name}",
        model=model,
        alias=alias,
        tracking_uri=uri,
        version=2,
        replicas=0,
        state="asleep",
        pool="own",
    )


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The endpoints that were waited for, each with the version."""

    @contextmanager
    def connect(*, private: bool) -> Iterator[None]:
        yield

    there = [
        endpoint("news"),
        endpoint("candidate", alias="challenger"),
        endpoint("elsewhere", uri="http://other:5000"),
        endpoint("spam", model="spam"),
    ]
    waited_for: list[tuple[str, int]] = []
    registry = SimpleNamespace(rollback=lambda name, alias: (2, 1))
    monkeypatch.setattr(scripts.serving, "ModelRegistry", lambda tracking_uri: registry)
    monkeypatch.setattr(scripts.serving, "read_record", lambda: SimpleNamespace())
    monkeypatch.setattr(scripts.serving, "connect", connect)
    monkeypatch.setattr(scripts.serving, "endpoints", lambda: there)
    monkeypatch.setattr(
        scripts.serving, "follow_alias", lambda name, version, timeout_s: waited_for.append((name, version))
    )
    return waited_for


def test_only_endpoints_with_the_same_model_alias_and_registry_are_waited_for(
    followed: list[tuple[str, int]], tmp_path: object
) -> None:
    result = roll_back("news", alias="champion", storage=str(tmp_path), mlflow_uri=TRACKING_URI)

    assert result == {"model": "news", "alias": "champion", "from": 2, "version": 1}
    assert followed == [("news", 1)]
