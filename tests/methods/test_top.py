"""methods/top.py: which layers train, and how far down the gradient goes."""

import pytest
import torch

from minipelt.bert import BertClassifier, BertConfig, BertModel
from minipelt.errors import InputError
from minipelt.settings import Method
from minipelt.unipelt import attach, trained_parameters


def build(tiny, top_layers):
    """The tiny model with its top layers trained."""
    return attach(BertClassifier(tiny, 2), Method("top", top_layers=top_layers)).eval()


@pytest.mark.parametrize("top_layers", [1, 2, 3])
def test_the_top_layers_and_the_pooler_train_whole(tiny, top_layers):
    trained = set(trained_parameters(build(tiny, top_layers)))
    expected = {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    for number in range(3 - top_layers, 3):
        for name, _ in tiny.encoder.layer[number].named_parameters():
            expected.add(f"bert.encoder.layer.{number}.{name}")
    assert trained == expected


def test_no_gradient_passes_below_the_lowest_layer_that_trains(tiny, batch):
    model = build(tiny, 1)
    states = model.bert(*batch).hidden_states
    assert [state.requires_grad for state in states] == [False, False, False, True]


def test_more_layers_than_there_are_is_an_error(tiny):
    with pytest.raises(InputError, match="top_layers is 4; this encoder has 3 layers"):
        build(tiny, 4)


def test_no_top_layer_is_the_head_alone(tiny):
    without = set(trained_parameters(build(tiny, 0)))
    assert without == {"classifier.weight", "classifier.bias"}


def test_layer_ten_is_not_layer_one():
    """In a BERT of 12 layers, names that begin alike are told apart."""
    with torch.device("meta"):
        model = attach(BertClassifier(BertModel(BertConfig()), 2), Method("top", top_layers=3))
    layers = {name.split(".")[3] for name in trained_parameters(model) if "encoder.layer" in name}
    assert layers == {"9", "10", "11"}
