import contextlib

import httpx
import pytest
from huggingface_hub import constants

from common.hub import hub_answers, hub_or_cache


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def no_connection(*args, **settings):
    raise httpx.ConnectError("no route")


@pytest.mark.parametrize(
    ("head", "answers"), [(lambda *args, **settings: httpx.Response(200), True), (no_connection, False)]
)
def test_the_libraries_are_offline_exactly_while_the_hub_is_silent(monkeypatch, head, answers):
    monkeypatch.setattr(httpx, "head", head)
    with contextlib.suppress(ValueError), hub_or_cache() as seen:
        assert seen is answers
        assert constants.is_offline_mode() is not answers
        raise ValueError
    assert not constants.is_offline_mode()


def test_offline_mode_is_respected_without_asking(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(httpx, "head", lambda *args, **settings: pytest.fail("asked the Hub"))
    assert not hub_answers()
    with hub_or_cache() as answers:
        assert not answers
    assert constants.is_offline_mode()
