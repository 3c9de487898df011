"""What another job does that comes to a full cluster, when its input ends: it waits for room, and leaves it again."""

import sys

import ray.util

from common.cluster import connect


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main() -> None:
    with connect(private=False):
        sys.stdin.read()
        held = ray.util.placement_group([{"CPU": float(sys.argv[1])}])
        say("waits")
        if held.wait(timeout_seconds=120):
            say("has room")
        ray.util.remove_placement_group(held)


if __name__ == "__main__":
    main()
