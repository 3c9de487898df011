from dataclasses import replace
from pathlib import Path

from serve.batching import ServedVersion
from serve.endpoints import EndpointSpec
from serve.known_versions import KNOWN_FOR_S, KnownVersions
from tests.fake_backend import SPEC

SERVED = ServedVersion(3, "/models/3")


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def recalled(folder: Path, clock: Clock, spec: EndpointSpec = SPEC) -> ServedVersion | None:
    """By a gateway that has just started."""
    return KnownVersions(folder, clock).recall(spec)


def test_what_was_noted_is_known_to_another_for_a_while_and_then_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    noting = KnownVersions(tmp_path, clock)

    noting.note(SPEC, SERVED)
    clock.now += KNOWN_FOR_S - 1
    assert recalled(tmp_path, clock) == SERVED
    noting.note(SPEC, SERVED)  # the registry has said so again
    clock.now += KNOWN_FOR_S - 1
    assert recalled(tmp_path, clock) == SERVED
    clock.now += 2
    assert recalled(tmp_path, clock) is None


def test_the_newest_word_counts_and_each_model_has_its_own(tmp_path: Path) -> None:
    clock = Clock()
    newest = ServedVersion(4, "/models/4")
    noting = KnownVersions(tmp_path, clock)
    noting.note(SPEC, SERVED)
    noting.note(SPEC, newest)

    assert recalled(tmp_path, clock) == newest
    assert recalled(tmp_path, clock, replace(SPEC, model="other")) is None
    assert recalled(tmp_path, clock, replace(SPEC, num_gpus=1)) is None  # it has another folder
    assert recalled(tmp_path, clock, replace(SPEC, max_replicas=9)) == newest  # the same model


def test_it_is_told_once_and_not_to_whoever_has_asked_the_registry(tmp_path: Path) -> None:
    clock = Clock()
    first, second = KnownVersions(tmp_path, clock), KnownVersions(tmp_path, clock)
    first.note(SPEC, SERVED)

    assert first.recall(SPEC) is None
    assert [second.recall(SPEC), second.recall(SPEC)] == [SERVED, None]


def test_a_damaged_file_or_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    clock = Clock()
    KnownVersions(tmp_path, clock).note(SPEC, SERVED)
    (path,) = tmp_path.iterdir()
    for damage in (b"", b"[]", b'{"version": 3}'):
        path.write_bytes(damage)
        assert recalled(tmp_path, clock) is None
    (tmp_path / "file").write_text("")
    KnownVersions(tmp_path / "file", clock).note(SPEC, SERVED)
