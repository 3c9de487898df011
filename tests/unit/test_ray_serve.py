from dataclasses import replace
from typing import Any

import pytest

from serve.endpoints import EndpointSpec
from serve.ray_serve import gateway_application, gateway_url, model_application

SPEC = EndpointSpec(
    model="headlines",
    alias="champion",
    tracking_uri="sqlite:///mlflow.db",
    storage="/storage",
    max_queued_requests=8,
    target_ongoing_requests=3.0,
    min_replicas=0,
    max_replicas=5,
    downscale_to_zero_delay_s=300.0,
)


def deployment(spec: EndpointSpec = SPEC) -> Any:
    return model_application(spec)._bound_deployment


def autoscaling(**changes: Any) -> Any:
    return deployment(replace(SPEC, **changes))._deployment_config.autoscaling_config


def test_replicas_and_the_gateway_reserve_no_cpu() -> None:
    gateway: Any = gateway_application(code_uri=None, host="127.0.0.1")._bound_deployment

    assert deployment().ray_actor_options["num_cpus"] == 0
    assert gateway.ray_actor_options["num_cpus"] == 0


@pytest.mark.parametrize("code_uri", [None, "s3://bucket/code.zip"])
def test_replicas_never_take_their_code_from_the_upload_of_a_job(code_uri: str | None) -> None:
    options = deployment(replace(SPEC, code_uri=code_uri)).ray_actor_options

    assert options["runtime_env"] == {"working_dir": code_uri}


@pytest.mark.parametrize("code_uri", [None, "s3://bucket/code.zip"])
def test_the_specification_comes_back_from_the_deployment(code_uri: str | None) -> None:
    spec = replace(SPEC, code_uri=code_uri)

    assert EndpointSpec.from_user_config(deployment(spec).user_config) == spec


def test_the_bounds_and_the_target_are_those_of_the_specification() -> None:
    config = autoscaling(min_replicas=1)

    assert (config.min_replicas, config.max_replicas, config.target_ongoing_requests) == (1, 5, 3.0)


def test_the_idle_policy_alone_waits_for_the_last_replica() -> None:
    config = autoscaling(downscale_to_zero_delay_s=120.0)

    assert config.policy.policy_function == "serve.autoscaling:IdlePolicy"
    assert config.policy.policy_kwargs == {"downscale_to_zero_delay_s": 120.0}
    assert config.downscale_to_zero_delay_s == 0


@pytest.mark.parametrize(("delay_s", "interval_s"), [(1.0, 0.5), (4.0, 1.0), (300.0, 2.0)])
def test_replicas_report_often_enough_for_the_delay(delay_s: float, interval_s: float) -> None:
    assert autoscaling(downscale_to_zero_delay_s=delay_s).metrics_interval_s == interval_s


@pytest.mark.parametrize(("target", "num_batches"), [(1.0, 2), (3.0, 3)])
def test_a_replica_always_has_the_next_batch(target: float, num_batches: int) -> None:
    config = deployment(replace(SPEC, target_ongoing_requests=target))._deployment_config

    assert config.max_ongoing_requests == num_batches


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1:8000"), ("::1", "http://[::1]:8000")])
def test_the_url_of_the_gateway(host: str, url: str) -> None:
    assert gateway_url({"http_options": {"host": host, "port": 8000}}) == url
