"""A candidate beside the champion: who is asked, that nobody's request fails for it, and how it ends."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

import serve.canary
from common.errors import InputError, ServingError, TrackingError
from serve.batching import Answer, Batcher, ServedVersion, Text
from serve.canary import Canary, draws
from serve.canary_settings import CanarySettings, Mode
from serve.endpoints import EndpointSpec
from serve.health import CanaryHealth
from tests.fake_backend import SPEC

CHAMPION, CANDIDATE = ServedVersion(1, "/1"), ServedVersion(2, "/2")
SETTINGS = CanarySettings("canary", 10, 2, "candidate", 200, 0.8, "2026-11-27T05:00:00+00:00")
GOOD: Answer = {"label": "good", "score": 0.75, "scores": {"bad": 0.25, "good": 0.75}}
BAD: Answer = {"label": "bad", "score": 0.9, "scores": {"bad": 0.9, "good": 0.1}}


@dataclass
class World:
    """The replicas and the registry of one endpoint; `answers` may hold what a version fails with."""

    settings: CanarySettings = SETTINGS
    answers: dict[int, Answer | Exception] = field(default_factory=dict)
    asked: list[tuple[int, list[Text]]] = field(default_factory=list)
    concluded: list[CanaryHealth] = field(default_factory=list)
    registry_error: Exception | None = None
    is_overtaken: bool = False
    """The alias has moved, and the gateway has not looked yet."""
    released: list[int] = field(default_factory=list)
    closed: set[int] = field(default_factory=set)
    """Versions that do not answer at all."""

    def __post_init__(self) -> None:
        send = partial(self.classify, "news")
        self.batcher = Batcher(send, max_waiting=8, batches_per_replica=2.0, max_replicas=1)
        backend: Any = self
        self.canary = Canary("news", replace(SPEC, canary=self.settings), self.settings, self.batcher, backend)

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        self.asked.append((served.version, texts))
        if served.version in self.closed:
            await asyncio.Event().wait()
        answer = self.answers.get(served.version, GOOD)
        if isinstance(answer, Exception):
            raise answer
        return [answer for _ in texts]

    async def candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        if self.registry_error:
            raise self.registry_error
        return CANDIDATE, self.concluded[-1] if self.concluded else None

    async def conclude(self, name: str, spec: EndpointSpec, outcome: CanaryHealth) -> bool:
        if self.registry_error:
            raise self.registry_error
        if self.is_overtaken:
            return False
        self.concluded.append(outcome)
        return True

    async def release(self, name: str, served: ServedVersion) -> None:
        self.released.append(served.version)

    async def ask(self, number: int, **options: Any) -> tuple[list[Answer], int]:
        """One request; what it has started in the background has ended too."""
        options = {"is_awake": True, **options}
        answered = await self.canary.classify(CHAMPION, [f"text {number}"], f"request {number}", **options)
        if self.canary._comparing is not None:
            await self.canary._comparing
        return answered

    async def ask_many(self, num: int) -> Counter[int]:
        """How many of `num` requests each version answered, after the canary has learnt who is who."""
        await self.canary.follow(CHAMPION)
        return Counter([(await self.ask(number))[1] for number in range(num)])


def drawn(settings: CanarySettings = SETTINGS) -> int:
    """The number of a request that the candidate is asked."""
    return next(number for number in range(1000) if draws(f"request {number}", settings))


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make one version slower than the other."""
    monkeypatch.setattr(serve.canary, "perf_counter", lambda: 0.0)


def shadow(percent: int = 100) -> CanarySettings:
    return replace(SETTINGS, mode="shadow", percent=percent)


def half() -> CanarySettings:
    return replace(SETTINGS, percent=50)


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_the_candidate_is_drawn_for_its_share_and_again_for_the_same_request(percent: int) -> None:
    settings = replace(SETTINGS, percent=percent)
    requests = [f"{number}" for number in range(20_000)]

    chosen = [request for request in requests if draws(request, settings)]

    assert len(chosen) / len(requests) == pytest.approx(percent / 100, rel=0.15)
    assert [request for request in requests if draws(request, settings)] == chosen
    assert [request for request in requests if draws(request, replace(settings, started_at="later"))] != chosen


def test_a_canary_answers_its_share_and_every_answer_names_who_gave_it() -> None:
    world = World(answers={2: BAD}, settings=replace(SETTINGS, min_agreement=0.0))

    async def scenario() -> None:
        answered = await world.ask_many(400)
        expected = sum(draws(f"request {number}", SETTINGS) for number in range(400))
        assert answered == {2: expected, 1: 400 - expected}
        assert await world.ask(drawn()) == ([BAD], 2)

    asyncio.run(scenario())


def test_what_the_candidate_answered_the_champion_is_asked_too() -> None:
    world = World()

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        await world.ask(drawn())

    asyncio.run(scenario())
    assert world.asked == [(2, [f"text {drawn()}"]), (1, [f"text {drawn()}"])]
    assert (world.canary.health().compared, world.canary.health().agreement) == (1, 1.0)


@pytest.mark.parametrize(
    "failure", [ServingError("no model.onnx"), RuntimeError("boom"), {**GOOD, "score": float("nan")}]
)
def test_a_request_that_the_candidate_fails_is_answered_by_the_champion(failure: Any) -> None:
    world = World(answers={2: failure})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        assert await world.ask(drawn()) == ([GOOD], 1)

    asyncio.run(scenario())
    health = world.canary.health()
    assert (health.candidate.requests, health.candidate.error_rate) == (1, 1.0)
    assert health.champion.error_rate == 0.0


def test_a_full_queue_does_not_fail_the_request_that_falls_back() -> None:
    world = World(answers={2: ServingError("broken")})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        texts = [f"text {number}" for number in range(world.batcher.max_waiting)]
        assert await world.canary.classify(CHAMPION, texts, f"request {drawn()}", is_awake=True) == ([GOOD] * 8, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize(("is_awake", "num_errors"), [(True, 1), (False, 0)])
def test_a_candidate_that_hangs_is_given_up_and_a_slow_wake_is_not_its_fault(
    is_awake: bool, num_errors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.canary, "CANDIDATE_LIMIT_S", 0.0)
    world = World(closed={2})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        assert (await world.ask(drawn(), is_awake=is_awake))[1] == 1

    asyncio.run(scenario())
    assert world.canary.comparison.candidate.num_errors == num_errors


def test_when_both_fail_neither_is_blamed_alone() -> None:
    world = World(answers={1: ServingError("no replica"), 2: ServingError("no replica")})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        with pytest.raises(ServingError, match="no replica"):
            await world.ask(drawn())

    asyncio.run(scenario())
    assert world.canary.comparison.candidate.num_errors == 0
    assert world.canary.comparison.champion.num_errors == 1


@pytest.mark.parametrize("mode", ["canary", "shadow"])
def test_a_text_that_neither_can_take_is_no_fault_of_the_candidate(mode: Mode) -> None:
    failed = {**GOOD, "score": float("nan")}
    world = World(settings=replace(half(), mode=mode), answers={1: failed, 2: failed})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        assert (await world.ask(drawn(half())))[1] == 1

    asyncio.run(scenario())
    assert (world.canary.comparison.champion.num_errors, world.canary.comparison.candidate.num_errors) == (1, 0)


def test_a_shadow_answers_nobody_and_its_failures_reach_nobody() -> None:
    world = World(settings=shadow(), answers={2: ServingError("broken")})

    async def scenario() -> None:
        assert await world.ask_many(5) == {1: 5}

    asyncio.run(scenario())
    assert Counter(version for version, _ in world.asked) == {1: 5, 2: 5}
    assert world.canary.health().candidate.error_rate == 1.0


def test_a_comparison_delays_no_answer_and_a_busy_endpoint_skips_some() -> None:
    world = World(settings=shadow(), closed={2})

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        for number in range(5):
            assert (await world.canary.classify(CHAMPION, ["a"], str(number), is_awake=True))[1] == 1
            await asyncio.sleep(0)
        assert world.batcher.num_waiting == 0  # nor does it take a client's place
        world.canary._comparing.cancel()  # type: ignore[union-attr]

    asyncio.run(scenario())
    assert Counter(version for version, _ in world.asked) == {1: 5, 2: 1}


def test_a_wake_is_no_versions_latency() -> None:
    world = World()

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        await world.ask(drawn(), is_awake=False)
        await world.ask(drawn() + 1, is_awake=False)

    asyncio.run(scenario())
    assert (world.canary.comparison.champion.latencies_s, world.canary.comparison.candidate.latencies_s) == ([], [])
    assert world.canary.comparison.candidate.num_requests == 1


def test_nobody_is_drawn_before_the_candidate_is_known() -> None:
    world = World(registry_error=TrackingError("the registry is away"))

    async def scenario() -> None:
        assert await world.ask_many(100) == {1: 100}
        assert world.canary.health().problem == "the registry is away"
        world.registry_error = None
        assert (await world.ask_many(100))[2] > 0
        assert world.canary.health().problem is None

    asyncio.run(scenario())


def test_a_candidate_that_passes_is_put_on_record_and_the_champion_before_leaves_memory() -> None:
    world = World(settings=replace(half(), min_requests=20))

    async def scenario() -> None:
        await world.ask_many(60)
        await world.canary.follow(CHAMPION)
        (outcome,) = world.concluded
        assert (outcome.state, outcome.champion.version, outcome.candidate.version) == ("finished", 1, 2)
        assert outcome.reason
        assert "requests were compared: agreement 1.000" in outcome.reason
        for _ in range(3):  # the alias is there, and not all of its followers
            await world.canary.follow(CHAMPION)
        assert world.released == []
        for _ in range(3):
            await world.canary.follow(CANDIDATE)

    asyncio.run(scenario())
    assert world.released == [1]
    assert len(world.concluded) == 1


@pytest.mark.parametrize("mode", ["canary", "shadow"])
@pytest.mark.parametrize(
    ("answer", "reason"), [(ServedVersion, "it failed"), (BAD, "its labels are the champion's for 0 %")]
)
def test_a_candidate_that_breaks_a_bound_is_rolled_back_and_leaves_memory(mode: Mode, answer: Any, reason: str) -> None:
    world = World(
        settings=replace(SETTINGS, mode=mode, percent=50),
        answers={2: ServingError("broken") if answer is ServedVersion else answer},
    )

    async def scenario() -> None:
        await world.ask_many(60)
        assert world.canary.health().state == "running"
        for _ in range(4):
            await world.canary.follow(CHAMPION)
        world.asked.clear()
        assert await world.ask_many(50) == {1: 50}

    asyncio.run(scenario())
    (outcome,) = world.concluded
    assert outcome.state == "rolled back"
    assert outcome.reason
    assert outcome.reason.startswith(reason)
    assert world.released == [2]
    assert {version for version, _ in world.asked} == {1}


def test_a_slow_candidate_is_rolled_back() -> None:
    world = World(settings=half())

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        world.canary.comparison.champion.latencies_s += [0.01] * 200
        world.canary.comparison.candidate.latencies_s += [0.05] * 20
        await world.canary.follow(CHAMPION)

    asyncio.run(scenario())
    assert world.concluded[0].state == "rolled back"
    assert "95th percentile of latency is 50 ms" in str(world.concluded[0].reason)


def test_a_shadow_that_passes_leaves_the_champion_where_it_is() -> None:
    world = World(settings=replace(shadow(), min_requests=20))

    async def scenario() -> None:
        await world.ask_many(20)
        for _ in range(4):
            await world.canary.follow(CHAMPION)

    asyncio.run(scenario())
    assert world.concluded[0].state == "finished"
    assert world.released == [2]  # which nobody asks any more


def test_a_decision_that_the_registry_refuses_holds_and_is_put_on_record_later() -> None:
    world = World(settings=half(), answers={2: ServingError("broken")})

    async def scenario() -> None:
        await world.ask_many(60)
        world.registry_error = TrackingError("the registry is away")
        await world.canary.follow(CHAMPION)
        assert (world.canary.health().state, world.canary.health().problem) == ("rolled back", "the registry is away")
        assert (await world.ask(drawn(half())))[1] == 1
        world.registry_error = None
        await world.canary.follow(CHAMPION)

    asyncio.run(scenario())
    assert [outcome.state for outcome in world.concluded] == ["rolled back"]
    assert world.canary.health().problem is None


def test_a_restarted_gateway_knows_how_the_canary_ended() -> None:
    before = World(settings=half(), answers={2: ServingError("broken")})

    async def scenario() -> None:
        await before.ask_many(60)
        await before.canary.follow(CHAMPION)
        after = World(settings=before.settings, concluded=before.concluded)
        assert await after.ask_many(50) == {1: 50}
        assert after.canary.health() == before.canary.health()

    asyncio.run(scenario())
    assert len(before.concluded) == 1


def test_a_restarted_gateway_goes_on_with_a_canary_that_is_undecided() -> None:
    world = World(settings=half())

    async def scenario() -> None:
        assert (await world.ask_many(50))[2] > 0
        after = World(settings=world.settings)
        assert (await after.ask_many(50))[2] > 0

    asyncio.run(scenario())


def test_another_champion_begins_the_comparison_anew() -> None:
    world = World(settings=half())

    async def scenario() -> None:
        await world.ask_many(30)
        assert world.canary.health().compared > 0
        await world.canary.follow(ServedVersion(3, "/3"))
        assert (world.canary.health().compared, world.canary.health().champion.version) == (0, 3)
        assert (await world.ask(drawn(half())))[1] == 1  # a request that still names the champion before is no sample
        assert world.canary.health().candidate.requests == 0

    asyncio.run(scenario())


def test_a_candidate_that_passed_beside_a_champion_that_was_replaced_meanwhile_is_compared_with_the_new_one() -> None:
    world = World(settings=replace(half(), min_requests=20), is_overtaken=True)

    async def scenario() -> None:
        await world.ask_many(60)
        await world.canary.follow(CHAMPION)
        assert world.canary.health().state == "running"
        world.is_overtaken = False
        await world.canary.follow(ServedVersion(3, "/3"))
        assert (world.canary.health().compared, world.canary.health().champion.version) == (0, 3)

    asyncio.run(scenario())
    assert world.concluded == []


def test_an_alias_that_was_moved_to_the_candidate_by_hand_ends_the_canary() -> None:
    world = World()

    async def scenario() -> None:
        await world.canary.follow(CHAMPION)
        await world.canary.follow(CANDIDATE)

    asyncio.run(scenario())
    assert world.concluded[0].state == "finished"
    assert "moved to the candidate meanwhile" in str(world.concluded[0].reason)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"percent": 0}, r"--canary 0: give a share from 1 to 50 percent"),
        ({"percent": 51}, r"--canary 51: give a share from 1 to 50 percent"),
        ({"mode": "shadow", "percent": 101}, r"--shadow 101: give a share from 1 to 100 percent"),
        ({"min_requests": 0}, r"--min-requests 0: compare at least 1"),
        ({"min_agreement": 1.5}, r"--min-agreement 1\.5: give a share .* from 0 to 1"),
        ({"min_agreement": float("nan")}, r"--min-agreement nan: give a share"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(SETTINGS, **changes).check()


def test_the_same_canary_is_recognised_whenever_it_was_started() -> None:
    assert SETTINGS.is_like(replace(SETTINGS, started_at="later"))
    assert not SETTINGS.is_like(replace(SETTINGS, percent=20))
    assert not SETTINGS.is_like(None)
