"""One more node of a cluster that runs on this machine: `python tests/raylet.py HOST:PORT NUM_CPUS [RESOURCES]`.

RESOURCES are custom ones, as JSON. Prints the node's id. Killed, it is missed; terminated, it leaves the cluster first.
`ray start` would do, if it let a cluster on the loopback address have a second node.
"""

import json
import signal
import sys
import threading

from ray._private.node import Node
from ray._private.parameter import RayParams


def main(address: str, num_cpus: str, resources: str = "{}") -> None:
    """Starts the node's processes, which end with this one's tree."""
    params = RayParams(
        gcs_address=address,
        node_ip_address="127.0.0.1",
        num_cpus=int(num_cpus),
        resources=json.loads(resources),
        object_store_memory=100_000_000,
        dashboard_agent_listen_port=0,  # any free one: every node of this machine would take the same
    )
    is_asked_to_leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_asked_to_leave.set())
    node = Node(params, head=False, shutdown_at_exit=False, spawn_reaper=False)
    sys.stdout.write(f"{node.node_id}\n")
    sys.stdout.flush()
    is_asked_to_leave.wait()
    node.kill_all_processes(check_alive=False, allow_graceful=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
