"""Which replica of the shared pool a batch goes to: the one that is likely to hold its model.

Rendezvous hashing (Thaler and Ravishankar 1998) ranks the replicas for each model, so nobody needs to be told who holds
what, and a replica that comes or goes moves only its own share of the models. Loads are bounded (Mirrokni, Thorup and
Zadimoghaddam 2018): a replica that is busier than its share is passed over, so that one busy model has several.

Serve ships this module by value to its controller and to the gateway.
"""

import hashlib
import math
from collections.abc import Mapping

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

LOAD_FACTOR = 1.25
"""How far above the mean a replica's open batches may be before it is passed over."""

MIN_BOUND = 2
"""Open batches that never make a replica too busy: one in the forward pass and the next one."""


def ranked(model: str, num_open: Mapping[str, int]) -> list[str]:
    """The replicas (their names, with how many batches each has open), the one to ask first at the front."""

    def weight(replica: str) -> bytes:
        return hashlib.blake2b(f"{model}\0{replica}".encode(), digest_size=8).digest()

    bound = max(MIN_BOUND, math.ceil(LOAD_FACTOR * (sum(num_open.values()) + 1) / max(1, len(num_open))))
    by_weight = sorted(num_open, key=weight, reverse=True)
    return sorted(by_weight, key=lambda replica: num_open[replica] >= bound)


class ModelAffinityRouter(RequestRouter):
    """Serve's router with that choice. A request names its model as `multiplexed_model_id`."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One replica after another: Serve takes the first that has room."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # between two rounds, when all of them are full
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        queues = self.replica_queue_len_cache
        num_open = {name: queues.get(replica.replica_id) or 0 for name, replica in by_name.items()}
        return [[by_name[name]] for name in ranked(pending_request.metadata.multiplexed_model_id, num_open)]
