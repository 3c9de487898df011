from dataclasses import replace
from pathlib import Path

from serve.batching import ServedVersion
from serve.known_versions import KNOWN_FOR_S, KnownVersions
from tests.fake_backend import SPEC

SERVED = ServedVersion(3, "/models/3")


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def test_what_was_noted_is_known_to_another_for_a_while_and_then_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    noting, recalling = KnownVersions(tmp_path, clock), KnownVersions(tmp_path, clock)

    noting.note(SPEC, SERVED)
    clock.now += KNOWN_FOR_S - 1
    assert recalling.recall(SPEC) == SERVED
    noting.note(SPEC, SERVED)  # the registry has said so again
    clock.now += KNOWN_FOR_S - 1
    assert recalling.recall(SPEC) == SERVED
    clock.now += 2
    assert recalling.recall(SPEC) is None


def test_the_newest_word_counts_and_each_model_has_its_own(tmp_path: Path) -> None:
    known = KnownVersions(tmp_path)
    known.note(SPEC, SERVED)
    known.note(SPEC, ServedVersion(4, "/models/4"))

    assert KnownVersions(tmp_path).recall(SPEC) == ServedVersion(4, "/models/4")
    assert known.recall(replace(SPEC, model="other")) is None
    assert known.recall(replace(SPEC, max_replicas=9)) == ServedVersion(4, "/models/4")  # the same model


def test_a_damaged_file_or_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    known = KnownVersions(tmp_path)
    known.note(SPEC, SERVED)
    (path,) = tmp_path.iterdir()
    for damage in (b"", b"[]", b'{"version": 3}'):
        path.write_bytes(damage)
        assert known.recall(SPEC) is None
    (tmp_path / "file").write_text("")
    KnownVersions(tmp_path / "file").note(SPEC, SERVED)
