import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training_data import write_split
from tune.batches import TokenisedTexts, epoch_batches, share, sorted_batches

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=300).map(np.array)


@pytest.fixture
def texts(tmp_path):
    write_split(tmp_path / "train.arrow", num_rows=40, seed=0)
    return TokenisedTexts.open(tmp_path / "train.arrow")


@given(LENGTHS, st.integers(1, 70), st.integers(0, 3))
def test_an_epoch_holds_every_row_once_and_only_its_last_batch_is_smaller(lengths, batch_size, epoch):
    batches = epoch_batches(lengths, batch_size, seed=1, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@given(LENGTHS, st.integers(1, 40), st.integers(1, 5))
def test_the_shares_of_all_workers_make_up_the_global_batch(lengths, batch_size, world_size):
    for batch in epoch_batches(lengths, batch_size, seed=1, epoch=0):
        shares = [share(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.tolist())
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_differ_between_epochs_and_seeds_and_repeat_with_the_same():
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    first, again, next_epoch, other_seed = (
        np.concatenate(epoch_batches(lengths, 8, seed, epoch)).tolist()
        for seed, epoch in [(1, 0), (1, 0), (1, 1), (2, 0)]
    )
    assert first == again
    assert first != next_epoch
    assert first != other_seed


def test_length_grouping_pads_little():
    lengths = np.random.default_rng(0).integers(3, 120, 3200)
    padded = sum(len(batch) * lengths[batch].max() for batch in epoch_batches(lengths, 16, seed=0, epoch=0))
    unsorted = sum(16 * lengths[start : start + 16].max() for start in range(0, 3200, 16))
    assert lengths.sum() / padded > 0.9 > lengths.sum() / unsorted


def test_a_batch_is_padded_to_its_longest_text_and_masked(texts):
    rows = np.argsort(texts.lengths)[[0, -1]]
    batch = texts.batch(rows, pad_token_id=9)
    short, long = texts.lengths[rows]
    assert batch.input_ids.shape == (2, long)
    assert batch.input_ids[0, short:].tolist() == [9] * (long - short)
    assert batch.attention_mask.sum(dim=1).tolist() == [short, long]
    assert (
        batch.input_ids[1].tolist()
        == texts.token_ids[texts.record_batches[rows[1]]][texts.starts[rows[1]] :][:long].tolist()
    )
    assert batch.labels.tolist() == texts.labels[rows].tolist()


def test_a_batch_without_padding_has_no_mask(texts):
    length = np.bincount(texts.lengths).argmax()
    assert texts.batch(np.flatnonzero(texts.lengths == length), pad_token_id=0).attention_mask is None


def test_prediction_batches_cover_all_rows_by_length(texts):
    batches = sorted_batches(texts.lengths, 16)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    assert (np.diff(texts.lengths[np.concatenate(batches)]) <= 0).all()


def test_token_ids_are_not_copied_from_the_memory_map(texts):
    assert len(texts.token_ids) == 3
    for tokens in texts.token_ids:
        assert not tokens.flags.owndata
        assert not tokens.flags.writeable
