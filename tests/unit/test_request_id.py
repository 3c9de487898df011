"""Every answer carries an id: the client's, unless it could forge lines of a log, or a fresh one."""

import asyncio

import httpx
import pytest

from serve.gateway import create_app
from serve.request_id import RequestId
from tests.fake_backend import FakeBackend


def ids(*given: str | None) -> list[str]:
    async def ask() -> list[str]:
        transport = httpx.ASGITransport(RequestId(create_app(FakeBackend())))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            headers = [{"x-request-id": value} if value is not None else {} for value in given]
            return [(await client.get("/nowhere", headers=header)).headers["x-request-id"] for header in headers]

    return asyncio.run(ask())


def test_a_sane_id_comes_back_and_others_have_a_fresh_one_each() -> None:
    assert ids("req-1.a:b/c=") == ["req-1.a:b/c="]
    fresh = ids(None, None)
    assert len(set(fresh)) == 2
    assert all(len(value) == 32 for value in fresh)


@pytest.mark.parametrize("hostile", ["", "a b", "a\tb", "<script>", "x" * 129, '"quoted"'])
def test_an_id_that_is_not_sane_is_replaced(hostile: str) -> None:
    (answered,) = ids(hostile)
    assert answered != hostile
    assert len(answered) == 32
