"""The study's file: whole after any end of its writer, and readable by Optuna's own backend."""

from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from common.recipe import Range, Search
from tune.study import StudySearch, journal
from tune.study_file import StudyFile

OPERATIONS: list[dict[str, Any]] = [{"op_code": number, "text": "line\nbreak"} for number in range(3)]


def test_operations_are_read_once_and_those_of_another_process_too(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.touch()
    one, other = StudyFile(path), StudyFile(path)
    one.append_logs(OPERATIONS[:2])
    assert list(other.read_logs(0)) == OPERATIONS[:2]
    assert list(other.read_logs(2)) == []
    other.append_logs(OPERATIONS[2:])
    assert list(other.read_logs(2)) == OPERATIONS[2:]
    assert list(one.read_logs(0)) == OPERATIONS
    assert list(one.read_logs(1)) == OPERATIONS[1:]


def test_an_operation_that_a_killed_driver_wrote_in_part_is_left_out_and_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.touch()
    StudyFile(path).append_logs(OPERATIONS[:1])
    with path.open("ab") as file:
        file.write(b'{"op_code":1,"te')
    next_driver = StudyFile(path)
    assert list(next_driver.read_logs(0)) == OPERATIONS[:1]
    next_driver.append_logs(OPERATIONS[2:])
    assert list(next_driver.read_logs(1)) == OPERATIONS[2:]
    assert list(StudyFile(path).read_logs(0)) == [OPERATIONS[0], OPERATIONS[2]]


def test_optunas_own_backend_reads_a_study(tmp_path: Path) -> None:
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})
    path = tmp_path / "study.journal"
    study = StudySearch(search, name="sweep", storage=journal(path), epochs=3)
    study.suggest("a")
    study.on_trial_complete("a", {"epoch": 3, "accuracy": 0.5})
    storage = JournalStorage(JournalFileBackend(str(path)))
    (trial,) = storage.get_all_trials(storage.get_study_id_from_name("sweep"))
    assert trial == study.study.get_trials()[0]
