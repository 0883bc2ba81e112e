"""config.py: a config.json is read, and an odd one is refused in one sentence."""

import json
import time

import pytest

from minipelt.bert import BertConfig
from minipelt.config import read_config
from minipelt.errors import InputError


def write_config(folder, raw):
    """Write a config.json of any kind."""
    (folder / "config.json").write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return folder / "config.json"


@pytest.mark.parametrize("raw, message", [
    ({"hidden_act": "swish"}, "hidden_act"),
    ({"hidden_size": 30, "num_attention_heads": 4}, "multiple"),
    ({"model_type": "roberta"}, "model_type"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "decoder"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0; expected a whole number above 0"),
    ({"hidden_size": "384"}, "hidden_size is '384'"),
    ([], "expected a JSON object"),
])
def test_config_refuses_what_it_cannot_compute(tmp_path, raw, message):
    with pytest.raises(InputError, match=message):
        read_config(write_config(tmp_path, raw))


ODD_CONFIGS = [
    ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; expected a whole number above 0 up to 1,000"),
    ({"hidden_size": 10**5, "num_attention_heads": 10}, "hidden_size is 100000; expected a whole number above 0 up to"),
    ({"intermediate_size": 10**9}, "intermediate_size is 1000000000"),
    ({"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000"),
    ({"type_vocab_size": 10**9}, "type_vocab_size is 1000000000"),
    ({"num_attention_heads": 10**300}, "num_attention_heads is 1000"),
    ({"hidden_size": -768}, "hidden_size is -768; expected a whole number above 0"),
    ({"hidden_size": 768.0}, "hidden_size is 768.0; expected a whole number above 0"),
    ({"num_hidden_layers": True}, "num_hidden_layers is True"),
    ({"num_hidden_layers": None}, "num_hidden_layers is None"),
    ({"num_hidden_layers": [12]}, r"num_hidden_layers is \[12\]"),
    ({"hidden_size": [[[768]]]}, r"hidden_size is \[\[\[768\]\]\]"),
    ({"vocab_size": {"size": 3}}, "vocab_size is {'size': 3}"),
    ({"hidden_act": None}, "hidden_act is None"),
    ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]"),
    ({"hidden_act": 1}, "hidden_act is 1"),
    ({"hidden_dropout_prob": 1}, "hidden_dropout_prob is 1; expected a number from 0 to 1, but not 1"),
    ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob is -0.1"),
    ({"attention_probs_dropout_prob": "0.1"}, "attention_probs_dropout_prob is '0.1'"),
    ({"attention_probs_dropout_prob": True}, "attention_probs_dropout_prob is True"),
    ('{"hidden_dropout_prob": NaN}', "hidden_dropout_prob is nan"),
    ('{"layer_norm_eps": Infinity}', "layer_norm_eps is inf"),
    ({"initializer_range": 10**400}, "initializer_range is 1000"),
    ({"model_type": ["bert"]}, "model_type is"),
    ({"is_decoder": None}, "is_decoder is None"),
    ("[" * 100_000, "nested too deeply"),
    ("3", "expected a JSON object"),
    ("null", "expected a JSON object"),
    ("", "not valid JSON"),
]


@pytest.mark.parametrize("raw, message", ODD_CONFIGS, ids=[str(number) for number in range(len(ODD_CONFIGS))])
def test_odd_configs_are_refused_at_once_with_one_sentence(tmp_path, raw, message):
    path = write_config(tmp_path, raw)
    started = time.process_time()
    with pytest.raises(InputError, match=f"config.json: .*{message}") as caught:
        read_config(path)
    assert time.process_time() - started < 0.5
    assert "\n" not in str(caught.value)


def test_what_a_config_says_is_taken_and_the_rest_has_its_default(tmp_path):
    raw = {"hidden_size": 384, "num_hidden_layers": 6, "architectures": ["BertModel"], "model_type": "bert"}
    assert read_config(write_config(tmp_path, raw)) == BertConfig(hidden_size=384, num_hidden_layers=6)
