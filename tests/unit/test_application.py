"""Endpoints as Serve applications, over a Serve and a gateway that are faked."""

from typing import Any

import httpx
import pytest
import ray.serve

from common.errors import ClusterError, InputError, ServingError
from common.machines import Node, Resources
from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from common.registry import ModelVersion
from serve import application, shared_specs
from serve.application import Deployed, deploy_endpoint, endpoints, follow_alias, start_gateway
from serve.backend import STANDBY, all_endpoints
from serve.canary_settings import CanarySettings
from serve.endpoints import GATEWAY, EndpointSpec
from serve.pool import POOL, PoolSpec
from serve.ray_serve import REPLICA_RESOURCE
from tests.fake_store import FakeStore

URL = "http://127.0.0.1:8000"
SHARED = ("serve.pool=shared", "serve.downscale_to_zero_delay_s=300")


class FakeServe:
    """Runs what it is given at once; the gateway answers for the version that the alias points to."""

    def __init__(self) -> None:
        self.details: dict[str, Any] | None = None
        self.started: list[str] = []
        self.status = "RUNNING"
        self.gateway_answers = True
        self.version = 3
        self.problem: str | None = None
        self.answered_by: list[dict[str, str]] = []
        """Whose replicas the gateway sent each endpoint's batches to, at each look."""
        self.canary_state = "running"
        self.offered: set[str] = set()
        self.reserved: dict[str, Any] = {}

    def start(self) -> None:
        self.started.append("serve")
        self.details = {"applications": {}}

    def run(self, app: Any, name: str) -> None:
        self.started.append(name)
        assert self.details is not None
        bound = app._bound_deployment
        self.reserved = bound.ray_actor_options.get("resources", {})
        config = {"user_config": bound.user_config}
        deployments = {bound.name: {"deployment_config": config, "replicas": [], "target_num_replicas": 0}}
        self.details["applications"][name] = {"status": self.status, "message": "no", "deployments": deployments}

    def get(self, url: str, **options: object) -> httpx.Response:
        if not self.gateway_answers:
            raise httpx.ConnectError("refused")
        return httpx.Response(200 if url == f"{URL}/healthz" else 404)

    def health(self, *, look_first: bool = False) -> dict[str, dict[str, Any]] | None:
        if not self.gateway_answers:
            return None
        assert self.details is not None
        told = {"version": self.version, "state": "waking", "problem": self.problem}
        deployed = all_endpoints(self.details, shared_specs.shared_specs())
        self.answered_by.append({name: found.spec.pool for name, found in deployed.items()})
        return {
            name: {"name": name, "pool": found.spec.pool, **told, "canary": self.canary(found.spec)}
            for name, found in deployed.items()
        }

    def delete(self, name: str) -> None:
        assert self.details is not None
        del self.details["applications"][name]
        assert self.answered_by[-1].get(name) != "own", "the gateway still sends its batches there"
        self.started.append(f"deleted {name}")

    def canary(self, spec: EndpointSpec) -> dict[str, Any] | None:
        return spec.canary and {"state": self.canary_state, "started_at": spec.canary.started_at}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    fake = FakeServe()

    class Registry:
        def __init__(self, tracking_uri: str) -> None: ...

        def by_alias(self, name: str, alias: str) -> ModelVersion:
            return ModelVersion(name, 3, "uri", "run")

    monkeypatch.setattr(application, "serve_details", lambda: fake.details)
    monkeypatch.setattr(application, "start", fake.start)
    monkeypatch.setattr(application, "check_port_is_free", lambda host, port: None)
    monkeypatch.setattr(application, "run", fake.run)
    monkeypatch.setattr(application, "offers", lambda resource: resource in fake.offered)
    monkeypatch.setattr(application, "gateway_health", fake.health)
    monkeypatch.setattr(application, "ModelRegistry", Registry)
    monkeypatch.setattr(ray.serve, "delete", fake.delete)
    monkeypatch.setattr(shared_specs, "internal_kv", FakeStore())
    monkeypatch.setattr(httpx, "get", fake.get)
    return fake


@pytest.fixture
def gateway(fake: FakeServe) -> FakeServe:
    start_gateway("127.0.0.1", 8000)
    fake.started.clear()
    return fake


def recipe(*overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()["quickstart"], overrides)


def deploy(*overrides: str, canary: CanarySettings | None = None) -> Deployed:
    return deploy_endpoint(
        recipe(*overrides), tracking_uri="sqlite:////s/mlflow.db", storage="/s", code_uri=None, canary=canary
    )


def candidate(version: int, started_at: str = "now") -> CanarySettings:
    return CanarySettings("canary", 10, version, "candidate", 200, 0.8, started_at)


def test_serve_and_the_gateway_are_started_once(fake: FakeServe) -> None:
    assert [start_gateway("127.0.0.1", 8000), start_gateway("127.0.0.1", 9000)] == [URL, URL]
    assert fake.started == ["serve", GATEWAY, STANDBY]


def test_a_gateway_that_failed_is_started_again(gateway: FakeServe) -> None:
    assert gateway.details is not None
    gateway.details["applications"][GATEWAY]["status"] = "DEPLOY_FAILED"
    start_gateway("127.0.0.1", 8000)
    assert gateway.started == [GATEWAY, STANDBY]


def test_deploying_without_a_gateway_says_how_to_start_one(fake: FakeServe) -> None:
    with pytest.raises(ClusterError, match="no gateway runs on this cluster; start one with `tuneserve up`"):
        deploy()
    assert fake.started == []


def test_only_a_changed_endpoint_is_deployed_again(gateway: FakeServe) -> None:
    assert [deploy(), deploy()] == [Deployed(f"{URL}/quickstart", "quickstart", 3)] * 2
    assert gateway.started == ["quickstart"]
    deploy("serve.max_replicas=5")
    assert gateway.started == ["quickstart", "quickstart"]


def test_an_endpoint_that_wants_a_gpu_is_deployed_with_it_where_there_is_one(
    gateway: FakeServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes: list[Node] = [Node(4.0, 0.0)]
    monkeypatch.setattr(application, "resources", lambda: Resources(tuple(nodes)))
    with pytest.raises(ClusterError, match=r"serve\.num_gpus 0\.5: the cluster has a place for 0 of 1"):
        deploy("serve.num_gpus=0.5")
    assert gateway.started == []
    nodes.append(Node(8.0, 1.0))
    deploy("serve.num_gpus=0.5")
    (found,) = application._deployed().values()
    assert found.spec.num_gpus == 0.5


def test_replicas_go_to_machines_for_endpoints_where_the_cluster_has_or_may_start_some(gateway: FakeServe) -> None:
    deploy()
    assert gateway.reserved == {}
    gateway.offered.add(REPLICA_RESOURCE)
    deploy("serve.max_replicas=5")
    assert gateway.reserved == {REPLICA_RESOURCE: 1.0}


def test_a_candidate_needs_an_endpoint_to_stand_beside(gateway: FakeServe) -> None:
    with pytest.raises(InputError, match=r"no endpoint 'quickstart' for a candidate .* tuneserve deploy RECIPE"):
        deploy(canary=candidate(4))
    assert gateway.started == []


def test_a_canary_that_runs_goes_on_when_it_is_asked_for_again_and_ends_when_it_is_not(gateway: FakeServe) -> None:
    deploy()
    gateway.started.clear()
    assert deploy(canary=candidate(4)).ended_canary is None
    assert deploy(canary=candidate(4, "later")).ended_canary is None
    assert gateway.started == ["quickstart"]

    assert deploy(canary=candidate(5)).ended_canary == 4
    assert deploy().ended_canary == 5
    assert deploy().ended_canary is None
    assert gateway.started == ["quickstart"] * 3


def test_how_a_canary_ended_is_told_until_the_next_one(gateway: FakeServe) -> None:
    deploy()
    deploy(canary=candidate(4))
    gateway.canary_state, gateway.started = "rolled back", []

    assert deploy().ended_canary is None  # it had ended, and nothing is deployed anew for that
    assert gateway.started == []
    assert deploy(canary=candidate(4, "later")).ended_canary is None
    assert gateway.started == ["quickstart"]
    assert gateway.health()["quickstart"]["canary"] == {"state": "rolled back", "started_at": "later"}


def test_a_candidate_may_win_before_its_deployment_is_over(gateway: FakeServe, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy()
    monkeypatch.setattr(application, "FOLLOW_TIMEOUT_S", 0.0)
    gateway.canary_state, gateway.version = "finished", 4

    assert deploy(canary=candidate(4)).version == 3


def test_what_serve_cannot_run_is_an_error_with_its_reason(gateway: FakeServe) -> None:
    gateway.status = "DEPLOY_FAILED"
    with pytest.raises(ServingError, match="Serve cannot run 'quickstart': no"):
        deploy()


def test_an_endpoint_that_does_not_follow_is_an_error_with_the_gateways_problem(gateway: FakeServe) -> None:
    deploy()
    gateway.problem = "the registry is away"
    with pytest.raises(ServingError, match=r"'quickstart' does not follow to version 4 \(the registry is away\)"):
        follow_alias("quickstart", 4, timeout_s=0)


@pytest.mark.parametrize(("answers", "version", "state"), [(True, 3, "waking"), (False, None, "asleep")])
def test_endpoints_are_those_of_serve_with_what_the_gateway_knows(
    answers: bool, version: int | None, state: str, gateway: FakeServe
) -> None:
    deploy()
    deploy("name=another")
    gateway.gateway_answers = answers
    assert [(found.name, found.url, found.version, found.state) for found in endpoints()] == [
        ("another", f"{URL}/another", version, state),
        ("quickstart", f"{URL}/quickstart", version, state),
    ]


def test_without_serve_there_are_no_endpoints(fake: FakeServe) -> None:
    assert endpoints() == []


def test_removing_what_is_not_there_names_what_is(gateway: FakeServe) -> None:
    deploy()
    with pytest.raises(ServingError, match="no endpoint 'quickstar'; there are: quickstart"):
        application.remove_endpoint("quickstar")


def test_the_first_endpoint_on_the_shared_pool_starts_it_and_none_gets_an_application(gateway: FakeServe) -> None:
    for name in ("quickstart", "another"):
        assert deploy(*SHARED, f"name={name}") == Deployed(f"{URL}/{name}", name, 3)
    assert gateway.started == [POOL]
    assert [(found.name, found.pool) for found in endpoints()] == [("another", "shared"), ("quickstart", "shared")]


def test_an_endpoint_is_answered_for_at_every_moment_of_its_way_to_the_pool_and_back(gateway: FakeServe) -> None:
    deploy()
    gateway.answered_by.clear()
    deploy(*SHARED)
    deploy()
    assert all("quickstart" in seen for seen in gateway.answered_by)
    assert gateway.started == ["quickstart", POOL, "deleted quickstart", "quickstart"]
    assert [found.pool for found in endpoints()] == ["own"]


def test_the_bounds_of_a_pool_can_be_changed(gateway: FakeServe) -> None:
    deploy(*SHARED)
    application.set_pool(PoolSpec(max_replicas=7))
    deploy(*SHARED, "serve.max_queued_requests=9")
    assert gateway.started == [POOL, POOL]
    found = application.pool()
    assert found is not None
    assert found.spec == PoolSpec(max_replicas=7)


def test_a_candidate_stands_beside_an_endpoint_on_the_pool_too(gateway: FakeServe) -> None:
    deploy(*SHARED)
    deploy(*SHARED, canary=candidate(4))
    assert shared_specs.shared_specs()["quickstart"].canary == candidate(4)
    assert gateway.started == [POOL]
    assert deploy(*SHARED).ended_canary == 4


@pytest.mark.parametrize("pool", ["own", "shared"])
def test_a_removed_endpoint_is_gone(pool: str, gateway: FakeServe) -> None:
    deploy(*(SHARED if pool == "shared" else ()))
    gateway.answered_by.append({})  # it is removed however it is answered for
    application.remove_endpoint("quickstart")
    assert endpoints() == []
    assert shared_specs.shared_specs() == {}
