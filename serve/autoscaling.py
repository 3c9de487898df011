"""When an endpoint's last replica goes.

Serve samples the number of running requests a few times a minute, so a request of 20 ms is nearly always missed: under
light, steady traffic its own policy sees an idle deployment and removes the replica. Here the replicas report how long
they have had nothing to do, and that clock decides. Serve ships this module by value to its controller, which need not
have tuneserve installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

IDLE_METRIC = "idle_s"
"""What a replica reports: seconds since it last worked, 0 while it works."""


class IdlePolicy:
    """As many replicas as the batches in flight need, and none once all have been idle for long enough.

    Serve itself applies the bounds, the delays between other numbers, and the first replica when a request waits.
    """

    def __init__(self, downscale_to_zero_delay_s: float) -> None:
        self.downscale_to_zero_delay_s = downscale_to_zero_delay_s

    def __call__(self, context: "AutoscalingContext") -> tuple[float, dict[str, Any]]:
        """The wanted number of replicas, and no state to keep."""
        if context.current_num_replicas == 0:
            return context.target_num_replicas, {}
        assert context.config is not None
        wanted = float(context.total_num_requests) / context.config.target_ongoing_requests
        if wanted > 0:
            return wanted, {}
        return (0.0 if self._idle_s(context) >= self.downscale_to_zero_delay_s else 1.0), {}

    def _idle_s(self, context: "AutoscalingContext") -> float:
        """Seconds since any of the replicas worked; 0 while one of them has not reported yet."""
        assert context.current_time is not None
        reports = (context.raw_metrics or {}).get(IDLE_METRIC, {})
        if any(not reports.get(replica) for replica in context.running_replicas):
            return 0.0
        worked_at = [
            reports[replica][-1].timestamp - reports[replica][-1].value for replica in context.running_replicas
        ]
        return context.current_time - max(worked_at)
