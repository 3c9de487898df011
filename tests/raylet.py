"""One more node of a cluster that runs on this machine: `python tests/raylet.py HOST:PORT NUM_CPUS`, until killed.

`ray start` would do, if it let a cluster on the loopback address have a second node.
"""

import sys
import threading

from ray._private.node import Node
from ray._private.parameter import RayParams


def main(address: str, num_cpus: str) -> None:
    """Starts the node's processes, which end with this one's tree."""
    params = RayParams(
        gcs_address=address, node_ip_address="127.0.0.1", num_cpus=int(num_cpus), object_store_memory=100_000_000
    )
    Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
