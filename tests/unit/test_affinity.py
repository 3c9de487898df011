"""Which replica of the shared pool gets a model's batch."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serve.affinity import MIN_BOUND, ModelAffinityRouter, ranked

REPLICAS = ("a", "b", "c", "d")
MODELS = [f"/models/{number}@1" for number in range(400)]


def homes(*replicas: str) -> dict[str, str]:
    return {model: ranked(model, dict.fromkeys(replicas, 0))[0] for model in MODELS}


def test_models_are_spread_over_the_replicas() -> None:
    shares = Counter(homes(*REPLICAS).values())

    assert min(shares.values()) > len(MODELS) / len(REPLICAS) * 0.7


def test_a_replica_that_comes_moves_only_models_to_itself() -> None:
    before, after = homes(*REPLICAS[:3]), homes(*REPLICAS)
    moved = {model for model in MODELS if before[model] != after[model]}

    assert {after[model] for model in moved} == {"d"}
    assert len(moved) < len(MODELS) / 2


def test_a_replica_that_goes_moves_only_its_own_models() -> None:
    before, after = homes(*REPLICAS), homes(*REPLICAS[:3])

    assert {before[model] for model in MODELS if before[model] != after[model]} == {"d"}


def test_a_replica_that_is_busier_than_its_share_is_passed_over() -> None:
    home, *others = ranked("model", dict.fromkeys(REPLICAS, 0))

    busy = ranked("model", {**dict.fromkeys(REPLICAS, 0), home: MIN_BOUND})
    all_busy = ranked("model", dict.fromkeys(REPLICAS, 10))

    assert busy == [*others, home]
    assert all_busy == [home, *others]


@given(st.text(), st.dictionaries(st.text(), st.integers(0, 300), max_size=8))
def test_every_replica_stays_a_way_out(model: str, num_open: dict[str, int]) -> None:
    assert sorted(ranked(model, num_open)) == sorted(num_open)


def test_serves_router_is_given_the_replicas_in_that_order_and_pauses_when_all_are_full() -> None:
    replicas: list[Any] = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in REPLICAS]
    num_open = {"a": 3, "b": None, "c": 0, "d": 1}  # what Serve was told last; None: nothing yet
    lengths = SimpleNamespace(get=lambda replica_id: num_open[replica_id.unique_id])
    router: Any = SimpleNamespace(replica_queue_len_cache=lengths)
    request: Any = SimpleNamespace(
        metadata=SimpleNamespace(multiplexed_model_id="model"), routing_context=SimpleNamespace(should_backoff=False)
    )

    chosen = asyncio.run(ModelAffinityRouter.choose_replicas(router, replicas, request))

    assert [[replica.replica_id.unique_id for replica in rank] for rank in chosen] == [
        [name] for name in ranked("model", {"a": 3, "b": 0, "c": 0, "d": 1})
    ]
    assert request.routing_context.should_backoff
