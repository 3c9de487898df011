import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import ray.serve
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.errors import ClusterError
from serve.endpoints import GATEWAY, EndpointSpec
from serve.gateway_server import Listener, Tls
from serve.pool import PoolSpec
from serve.ray_serve import (
    GATEWAY_DEPLOYMENT,
    REPLICA_RESOURCE,
    gateway_application,
    gateway_health,
    gateway_url,
    model_application,
    pool_application,
    standby_application,
)
from tests import fake_backend

SPEC = replace(fake_backend.SPEC, target_ongoing_requests=3.0, max_replicas=5)


def deployment(spec: EndpointSpec = SPEC) -> Any:
    return model_application(spec)._bound_deployment


def autoscaling(**changes: Any) -> Any:
    return deployment(replace(SPEC, **changes))._deployment_config.autoscaling_config


def test_replicas_the_gateway_and_the_standby_reserve_no_cpu() -> None:
    gateway: Any = gateway_application(Listener("127.0.0.1", 8000), code_uri=None)._bound_deployment
    standby: Any = standby_application(code_uri=None)._bound_deployment
    pool: Any = pool_application(PoolSpec())._bound_deployment

    assert [d.ray_actor_options["num_cpus"] for d in (deployment(), gateway, standby, pool)] == [0, 0, 0, 0]


@pytest.mark.parametrize(("num_gpus", "held"), [(0.0, None), (0.25, 0.25), (1.0, 1.0)])
def test_a_replica_holds_the_gpu_that_the_specification_asks_for_and_computes_there(
    num_gpus: float, held: float | None
) -> None:
    made = deployment(replace(SPEC, num_gpus=num_gpus))

    assert made.ray_actor_options.get("num_gpus") == held
    assert made._replica_config.init_kwargs == {"on_gpu": held is not None}


def test_the_standby_answers_on_the_cpu_for_endpoints_with_gpus_too() -> None:
    standby: Any = standby_application(code_uri=None)._bound_deployment

    assert "num_gpus" not in standby.ray_actor_options
    assert standby._replica_config.init_kwargs == {}


def test_replicas_take_a_place_on_serving_machines_where_there_are_some_and_none_elsewhere() -> None:
    anywhere: Any = model_application(SPEC)._bound_deployment
    there: Any = model_application(SPEC, on_serving_machines=True)._bound_deployment

    assert anywhere.ray_actor_options.get("resources", {}) == {}
    assert there.ray_actor_options["resources"] == {REPLICA_RESOURCE: 1.0}
    assert there.ray_actor_options["num_cpus"] == 0
    with_gpu: Any = model_application(replace(SPEC, num_gpus=1.0), on_serving_machines=True)._bound_deployment
    assert with_gpu.ray_actor_options["resources"] == {}


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


def pem(folder: Path, name: str, *, password: bytes | None = None) -> Tls:
    """A certificate and its key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    files = Tls(folder / f"{name}.pem", folder / f"{name}.key")
    files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, sealed)
    )
    return files


def test_a_certificate_and_its_key_are_accepted(tmp_path: Path) -> None:
    pem(tmp_path, "own").check()


def test_what_is_no_certificate_with_its_key_is_refused_with_both_names(tmp_path: Path) -> None:
    own, other = pem(tmp_path, "own"), pem(tmp_path, "other")
    wrong = [Tls(own.certificate, other.key), Tls(own.key, own.key), Tls(tmp_path / "none.pem", own.key)]
    for files in wrong:
        with pytest.raises(ClusterError, match="are not a certificate and its key in PEM form") as caught:
            files.check()
        assert str(files.certificate) in str(caught.value)
        assert str(files.key) in str(caught.value)


def test_a_key_with_a_password_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="has a password; give one without"):
        pem(tmp_path, "own", password=b"x").check()


TLS = Tls(Path("/tls/cert.pem"), Path("/tls/key.pem"))


@pytest.mark.parametrize(
    ("listener", "url"),
    [
        (Listener("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (Listener("::1", 8000), "http://[::1]:8000"),
        (Listener("127.0.0.1", 8443, TLS), "https://127.0.0.1:8443"),
    ],
)
def test_the_url_of_the_gateway(listener: Listener, url: str) -> None:
    gateway: Any = gateway_application(listener, code_uri=None)._bound_deployment
    deployments = {GATEWAY_DEPLOYMENT: {"deployment_config": {"user_config": gateway.user_config}}}

    assert gateway_url({"applications": {GATEWAY: {"deployments": deployments}}}) == url


def test_the_pool_scales_from_zero_and_sends_a_model_to_the_replica_that_holds_it() -> None:
    spec = PoolSpec(max_replicas=3, downscale_to_zero_delay_s=60.0, code_uri="s3://bucket/code.zip")
    pool: Any = pool_application(spec)._bound_deployment
    config = pool._deployment_config

    assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (0, 3)
    assert config.autoscaling_config.policy.policy_kwargs == {"downscale_to_zero_delay_s": 60.0}
    assert config.request_router_config.get_request_router_class().__name__ == "ModelAffinityRouter"
    assert pool.ray_actor_options["runtime_env"] == {"working_dir": "s3://bucket/code.zip"}
    assert PoolSpec.from_user_config(pool.user_config) == spec


class Handle:
    """The gateway's, as far as it is asked how it is; as Serve's it refuses to wait where an asyncio loop runs."""

    def __init__(self) -> None:
        self.health = self

    def remote(self, *, look_first: bool) -> "Handle":
        return self

    def result(self, *, timeout_s: float) -> list[dict[str, Any]]:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return [{"name": "news", "state": "asleep"}]


def test_a_notebook_whose_cells_run_in_an_asyncio_loop_can_ask_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.serve, "get_deployment_handle", lambda *_, **options: Handle())

    async def in_a_cell() -> Any:
        return gateway_health()

    assert asyncio.run(in_a_cell()) == {"news": {"name": "news", "state": "asleep"}}
