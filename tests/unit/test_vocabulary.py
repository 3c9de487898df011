"""Rows of tokens that do not occur are set aside while a model trains, and nothing else changes."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tune.vocabulary import UsedRows, all_rows, keep_used_rows

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS = torch.tensor([[2, 7, 9, 3], [2, 31, 3, 1]])
LABELS = torch.tensor([0, 1])


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=40, pad_token_id=1, **SIZES, **NO_DROPOUT))


def roberta():
    """Counts its positions from the tokens that are not padding."""
    torch.manual_seed(0)
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=40, pad_token_id=1, **SIZES, **NO_DROPOUT))


def bart():
    """Has one table for its encoder and its decoder, and looks for a special token among the input's."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartForSequenceClassification(
        BartConfig(vocab_size=40, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, eos_token_id=3, **sizes)
    )


def used(*tokens: int) -> torch.Tensor:
    return torch.isin(torch.arange(40), torch.tensor(tokens))


def losses(model, weight_decay=0.0, steps=4):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=weight_decay)
    found = []
    for _ in range(steps):
        loss = cross_entropy(model(input_ids=IDS, attention_mask=(IDS != 1).long()).logits, LABELS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("build", [bert, roberta])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_training_is_the_same_and_unseen_tokens_keep_their_vectors(build, weight_decay):
    whole, reduced = build(), build()
    before = reduced.get_input_embeddings().weight.detach().clone()
    keep_used_rows(reduced, used(1, 2, 3, 7, 9, 31))
    assert reduced.get_input_embeddings().weight.shape == (6, 16)
    assert losses(reduced, weight_decay) == pytest.approx(losses(whole, weight_decay), rel=1e-5)
    with all_rows(reduced):
        state = {name: value.clone() for name, value in reduced.state_dict().items()}
    assert state.keys() == whole.state_dict().keys()
    seen = used(1, 2, 3, 7, 9, 31)
    for name, value in whole.state_dict().items():
        rows = seen if value.shape[:1] == (40,) else slice(None)
        torch.testing.assert_close(state[name][rows], value[rows], rtol=1e-4, atol=1e-5)
    name = next(name for name, value in state.items() if value.shape[:1] == (40,))
    assert torch.equal(state[name][~seen], before[~seen])


def test_saving_in_the_middle_does_not_change_what_is_trained():
    saved, undisturbed = bert(), bert()
    for model in (saved, undisturbed):
        keep_used_rows(model, used(1, 2, 3, 7, 9, 31))
    first = losses(saved)
    with all_rows(saved):
        assert saved.get_input_embeddings().weight.shape == (40, 16)
    assert isinstance(saved.get_input_embeddings(), UsedRows)
    assert [*first, *losses(saved)] == [*losses(undisturbed), *losses(undisturbed)]


def test_a_token_without_a_row_is_refused_rather_than_taken_for_another():
    model = bert()
    keep_used_rows(model, used(1, 2, 3, 7))
    with pytest.raises(IndexError):
        model(input_ids=IDS)


def test_a_table_with_a_second_use_or_that_does_not_learn_is_left_as_it_is():
    frozen = bert()
    frozen.get_input_embeddings().weight.requires_grad_(False)
    for model in (bart(), frozen):
        keep_used_rows(model, used(1, 2, 3))
        assert not isinstance(model.get_input_embeddings(), UsedRows)
        with all_rows(model):
            assert model.get_input_embeddings().weight.shape == (40, 16)
