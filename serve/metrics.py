"""What the gateway measures, exported by Ray from the metrics port of the head node like Ray's own figures.

Ray puts `ray_` before the names; docs/operating.md and the dashboard beside it have them as they are then. A figure
costs 3 to 5 microseconds, much less than the rest of a request. No text and no key comes near a tag, and neither does
anything else that a client makes up: a stranger must not be able to fill the memory with names. What is no endpoint's,
whatever its path, counts as the gateway's own.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from serve.health import CanaryHealth

_SECONDS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]
_WAKING = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0]
_TEXTS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class GatewayMetrics:
    """The figures of one gateway."""

    def __init__(self) -> None:
        endpoint, version = ("endpoint",), ("endpoint", "version")
        self._requests = Counter("tuneserve_requests", "Requests by their answer.", (*version, "status"))
        self._request = Histogram("tuneserve_request_seconds", "Time to an answer of 200.", _SECONDS, version)
        self._texts = Counter("tuneserve_texts", "Texts classified.", version)
        self._batch = Histogram("tuneserve_batch_texts", "Texts in one call to a replica.", _TEXTS, version)
        self._waiting = Gauge("tuneserve_waiting_texts", "Texts accepted and not answered yet.", endpoint)
        self._replicas = Gauge("tuneserve_replicas", "Replicas that answer.", endpoint)
        self._wake = Histogram("tuneserve_wake_seconds", "Time from no replica to an answer.", _WAKING, endpoint)
        self._logged = Counter("tuneserve_request_log_texts", "Texts by what became of them.", ("endpoint", "outcome"))
        self._window = Gauge("tuneserve_window_texts", "Texts that the next figures are about.", version)
        self._shares = Gauge("tuneserve_label_share", "Share of the last texts.", (*version, "label"))
        self._confidence = Gauge("tuneserve_confidence", "Mean score of the labels of the last texts.", version)
        self._expected_shares = Gauge(
            "tuneserve_validation_label_share", "Share of the validation split.", (*version, "label")
        )
        self._expected_confidence = Gauge(
            "tuneserve_validation_confidence", "Mean score of the labels of the validation split.", version
        )
        self._label_psi = Gauge("tuneserve_label_psi", "Labels against the validation split.", version)
        self._confidence_psi = Gauge("tuneserve_confidence_psi", "Scores against the validation split.", version)
        self._canary = Gauge("tuneserve_canary_percent", "Share of requests that a candidate is asked.", endpoint)
        self._agreement = Gauge("tuneserve_canary_agreement", "Texts that both versions label alike.", endpoint)

    def all(self) -> tuple[Metric, ...]:
        """Every one of them."""
        return tuple(vars(self).values())

    def request(self, endpoint: str, version: int | None, status: int, seconds: float) -> None:
        """A request that has its answer."""
        tags = _tags(endpoint, version)
        self._requests.inc(1, {**tags, "status": str(status)})
        if status == 200:
            self._request.observe(seconds, tags)

    def batch(self, endpoint: str, version: int, num_texts: int) -> None:
        """A batch that a replica has answered."""
        tags = _tags(endpoint, version)
        self._texts.inc(num_texts, tags)
        self._batch.observe(num_texts, tags)

    def wake(self, endpoint: str, seconds: float) -> None:
        """A first answer of an endpoint that had no replica."""
        self._wake.observe(seconds, {"endpoint": endpoint})

    def state(self, endpoint: str, *, replicas: int, waiting: int) -> None:
        """How an endpoint is now."""
        self._replicas.set(replicas, {"endpoint": endpoint})
        self._waiting.set(waiting, {"endpoint": endpoint})

    def logged(self, endpoint: str, outcome: str, num_texts: int) -> None:
        """Texts that were `written` to the request log, or `dropped`."""
        self._logged.inc(num_texts, {"endpoint": endpoint, "outcome": outcome})

    def answers(
        self, endpoint: str, version: int, *, num_texts: int, shares: Mapping[str, float], confidence: float
    ) -> None:
        """What the last answers were: the share of each label, and the mean score of the labels."""
        tags = _tags(endpoint, version)
        self._window.set(num_texts, tags)
        self._confidence.set(confidence, tags)
        for label, share in shares.items():
            self._shares.set(share, {**tags, "label": label})

    def validation(self, endpoint: str, version: int, *, shares: Mapping[str, float], confidence: float) -> None:
        """The same of the validation split."""
        tags = _tags(endpoint, version)
        self._expected_confidence.set(confidence, tags)
        for label, share in shares.items():
            self._expected_shares.set(share, {**tags, "label": label})

    def drift(self, endpoint: str, version: int, *, labels: float, confidence: float) -> None:
        """How far the last answers are from the validation split, as population stability indices."""
        tags = _tags(endpoint, version)
        self._label_psi.set(labels, tags)
        self._confidence_psi.set(confidence, tags)

    def canary(self, endpoint: str, health: CanaryHealth | None) -> None:
        """How the endpoint's canary does; None when there is none."""
        is_running = health is not None and health.state == "running"
        self._canary.set(health.percent if health is not None and is_running else 0, {"endpoint": endpoint})
        if health is not None and health.agreement is not None:
            self._agreement.set(health.agreement, {"endpoint": endpoint})


def _tags(endpoint: str, version: int | None) -> dict[str, str]:
    return {"endpoint": endpoint, "version": "" if version is None else str(version)}
