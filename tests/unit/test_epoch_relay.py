import pytest

from tune.epoch_relay import REPORTS_FILE, EpochInbox, EpochRelay


@pytest.fixture
def relay(tmp_path):
    return EpochRelay(tmp_path)


def test_each_report_of_rank_zero_arrives_once(relay, tmp_path):
    inbox = EpochInbox(tmp_path)
    assert inbox.receive() == []
    relay.after_report(None, [{"epoch": 1, "loss": 0.5}, {"epoch": 1, "loss": 9.0}])
    relay.after_report(None, [{"epoch": 2, "loss": 0.25}])
    assert inbox.receive() == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
    assert inbox.receive() == []
    relay.after_report(None, [{"epoch": 3, "loss": 0.125}])
    assert inbox.receive() == [{"epoch": 3, "loss": 0.125}]


def test_a_line_that_is_still_being_written_waits(relay, tmp_path):
    inbox = EpochInbox(tmp_path)
    relay.after_report(None, [{"epoch": 1}])
    with (tmp_path / REPORTS_FILE).open("a") as file:
        file.write('{"epoch": ')
        file.flush()
        assert inbox.receive() == [{"epoch": 1}]
        file.write("2}\n")
    assert inbox.receive() == [{"epoch": 2}]


def test_there_is_no_controller_before_it_has_started(tmp_path):
    assert EpochInbox(tmp_path).controller() is None
