from serve.wakes import Wakes


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asleep() -> tuple[Wakes, Clock]:
    clock = Clock()
    wakes = Wakes(clock)
    wakes.seen("news", 0)
    return wakes, clock


def test_a_wake_lasts_from_the_first_batch_to_the_first_answer() -> None:
    wakes, clock = asleep()
    wakes.sent("news")
    clock.now = 1.0
    wakes.sent("news")
    wakes.seen("news", 0)
    clock.now = 3.0
    wakes.seen("news", 1)
    assert [wakes.answered("news"), wakes.answered("news")] == [3.0, None]


def test_an_endpoint_that_is_awake_does_not_wake() -> None:
    wakes, _ = asleep()
    wakes.seen("news", 1)
    wakes.sent("news")
    assert wakes.answered("news") is None


def test_one_wake_is_not_counted_twice_because_its_replica_has_not_been_seen_yet() -> None:
    wakes, _ = asleep()
    wakes.sent("news")
    wakes.answered("news")
    wakes.seen("news", 0)  # from before the answer
    wakes.sent("news")
    assert wakes.answered("news") is None


def test_every_wake_is_counted() -> None:
    wakes, clock = asleep()
    for _ in range(3):
        wakes.seen("news", 0)
        wakes.sent("news")
        clock.now += 2.0
        assert wakes.answered("news") == 2.0
        wakes.seen("news", 1)


def test_a_wake_that_failed_is_over_and_the_next_one_is_measured_anew() -> None:
    wakes, clock = asleep()
    wakes.sent("news")
    clock.now = 60.0
    assert [wakes.failed("news"), wakes.failed("news")] == [60.0, None]
    clock.now = 100.0
    wakes.seen("news", 0)
    wakes.sent("news")
    clock.now = 102.0
    assert wakes.answered("news") == 2.0


def test_endpoints_wake_each_for_itself() -> None:
    wakes, clock = asleep()
    wakes.seen("spam", 0)
    wakes.sent("news")
    clock.now = 1.0
    wakes.sent("spam")
    clock.now = 3.0
    assert [wakes.answered("spam"), wakes.answered("news")] == [2.0, 3.0]
