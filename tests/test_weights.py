"""weights.py: every variety of checkpoint loads, and everything broken is refused by name, before it costs memory."""

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, TINY, WORDS
from safetensors.torch import load_file, save_file

import minipelt
from minipelt import weights
from minipelt.errors import InputError
from minipelt.weights import load, load_encoder, load_tokenizer


def rewrite(folder, change):
    """Apply `change` to the dict of tensors of a folder's model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / "model.safetensors")


def same(bert, tiny):
    """Whether two encoders have the same tensors."""
    return all(torch.equal(value, tiny.state_dict()[name]) for name, value in bert.state_dict().items())


def without(tensors, start):
    """The tensors whose name does not begin so."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


def with_bert(tensors):
    """The tensors with `bert.` before every name."""
    return {f"bert.{name}": tensor for name, tensor in tensors.items()}


# ---- varieties


def test_a_plain_folder_loads(tiny_folder, tiny):
    bert, _ = load(tiny_folder)
    assert same(bert, tiny)
    assert bert.config == TINY
    assert not bert.training
    assert not bert.pooler_is_new


def old_names(tensors):
    """LayerNorm's weight and bias as old checkpoints call them."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[name] = tensor
    return renamed


@pytest.mark.slow
def test_loading_does_not_wait_for_torch_s_compiler(tiny_folder):
    """A second that one `normal_` on the meta device costs; a prediction does not need it."""
    program = (
        "import sys\n"
        "from minipelt.weights import load\n"
        f"load({str(tiny_folder)!r})\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


POSITIONS = torch.arange(128)[None]
HEADS = {"cls.predictions.bias": torch.zeros(9), "cls.seq_relationship.weight": torch.zeros(2, 32)}
VARIETIES = {
    "bert. before every name": with_bert,
    "gamma and beta": old_names,
    "position_ids": lambda tensors: tensors | {"embeddings.position_ids": POSITIONS},
    "bert.embeddings.position_ids": lambda tensors: with_bert(tensors) | {"bert.embeddings.position_ids": POSITIONS},
    "masked-LM and next-sentence heads": lambda tensors: tensors | HEADS,
    "a classifier": lambda tensors: tensors | {"classifier.weight": torch.zeros(2, 32)},
}


@pytest.mark.parametrize("variety", VARIETIES)
def test_varieties_load(tiny_folder, tiny, variety):
    rewrite(tiny_folder, VARIETIES[variety])
    assert same(load_encoder(tiny_folder), tiny)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(tiny_folder, tiny, kind):
    rewrite(tiny_folder, lambda tensors: {name: tensor.to(kind) for name, tensor in tensors.items()})
    bert = load_encoder(tiny_folder)
    assert all(p.dtype == torch.float32 for p in bert.parameters())
    assert torch.allclose(bert.pooler.dense.weight, tiny.pooler.dense.weight, atol=1e-2)


def test_a_checkpoint_without_a_pooler_gets_a_new_one(tiny_folder, tiny, capsys):
    rewrite(tiny_folder, lambda tensors: without(tensors, "pooler."))
    bert = load_encoder(tiny_folder)
    assert bert.pooler_is_new
    assert bert.pooler.dense.weight.std() > 0
    assert torch.equal(bert.pooler.dense.bias, torch.zeros(32))
    assert torch.equal(bert.embeddings.word_embeddings.weight, tiny.embeddings.word_embeddings.weight)
    assert "no pooler" in capsys.readouterr().err


# ---- tensors that are refused


LAYER = "encoder.layer.1.output.dense.weight"
REFUSALS = {
    f"tensor {LAYER} is missing": lambda tensors: without(tensors, LAYER),
    "tensor pooler.dense.bias is missing": lambda tensors: without(tensors, "pooler.dense.bias"),
    "unexpected tensor encoder.layer.3.output.dense.bias": (
        lambda tensors: tensors | {"encoder.layer.3.output.dense.bias": torch.zeros(32)}
    ),
    r"pooler.dense.bias has shape \(31,\); config.json asks for \(32,\)": (
        lambda tensors: tensors | {"pooler.dense.bias": torch.zeros(31)}
    ),
    "tensor pooler.dense.bias holds torch.int64; expected floating-point numbers": (
        lambda tensors: tensors | {"pooler.dense.bias": torch.zeros(32, dtype=torch.long)}
    ),
    "tensor pooler.dense.bias holds torch.int8; expected floating-point numbers": (
        lambda tensors: tensors | {"pooler.dense.bias": torch.zeros(32, dtype=torch.int8)}
    ),
    "tensor pooler.dense.bias holds torch.bool; expected floating-point numbers": (
        lambda tensors: tensors | {"pooler.dense.bias": torch.zeros(32, dtype=torch.bool)}
    ),
    "tensor pooler.dense.bias holds numbers that are not finite": (
        lambda tensors: tensors | {"pooler.dense.bias": torch.full((32,), float("nan"))}
    ),
    "tensor embeddings.LayerNorm.weight holds numbers that are not finite": (
        lambda tensors: tensors | {"embeddings.LayerNorm.weight": torch.full((32,), float("-inf"))}
    ),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_a_wrong_tensor_is_named_with_its_file(tiny_folder, message):
    rewrite(tiny_folder, REFUSALS[message])
    with pytest.raises(InputError, match="model.safetensors: .*" + message):
        load_encoder(tiny_folder)


def write_raw(path, name, kind, shape, num_bytes):
    """A safetensors file of one tensor, written by hand: kinds of number that the library would not write."""
    header = json.dumps({name: {"dtype": kind, "shape": shape, "data_offsets": [0, num_bytes]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(num_bytes))


@pytest.mark.parametrize("kind", ["C64", "F4", "odd"])
def test_complex_and_unknown_kinds_of_number_are_refused(tiny_folder, kind):
    write_raw(tiny_folder / "model.safetensors", "pooler.dense.bias", kind, [32], 256)
    with pytest.raises(InputError, match="model.safetensors: (tensor pooler.dense.bias holds|not a whole)") as caught:
        load_encoder(tiny_folder)
    assert "\n" not in str(caught.value)


def test_a_number_that_float32_cannot_hold_is_refused(tiny_folder):
    rewrite(tiny_folder, lambda tensors: tensors | {"pooler.dense.bias": torch.full((32,), 1e300, dtype=torch.double)})
    with pytest.raises(InputError, match="pooler.dense.bias holds numbers that are not finite"):
        load_encoder(tiny_folder)


def test_a_truncated_tensor_is_named(tiny_folder):
    path = tiny_folder / "model.safetensors"
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    last = max(tensors, key=lambda name: tensors[name]["data_offsets"])
    path.write_bytes(whole[:-6])
    message = f"model.safetensors: not a whole safetensors file .tensor {last} is cut off"
    with pytest.raises(InputError, match=message):
        load_encoder(tiny_folder)


BROKEN_FILES = {
    "half a header": lambda whole: whole[:100],
    "five bytes": lambda whole: whole[:5],
    "empty": lambda whole: b"",
    "no JSON": lambda whole: b"\x04" + bytes(7) + b"nope",
    "no object": lambda whole: b"\x02" + bytes(7) + b"[]",
    "a huge header": lambda whole: b"\xff" * 8 + whole[8:],
    "numbers for tensors": lambda whole: b"\x0d" + bytes(7) + b'{"a": 12345 }',
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_named(tiny_folder, name):
    path = tiny_folder / "model.safetensors"
    path.write_bytes(BROKEN_FILES[name](path.read_bytes()))
    with pytest.raises(InputError, match="model.safetensors: not a whole safetensors file"):
        load_encoder(tiny_folder)


def test_missing_files_are_named(tiny_folder):
    (tiny_folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match="neither tokenizer.json nor vocab.txt"):
        load_tokenizer(tiny_folder)
    (tiny_folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="model.safetensors: no such file"):
        load_encoder(tiny_folder)
    (tiny_folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json: not valid JSON"):
        load_encoder(tiny_folder)
    (tiny_folder / "config.json").unlink()
    with pytest.raises(InputError, match="the folder holds no config.json; expected a BERT folder"):
        load(tiny_folder)


def test_nothing_in_the_project_can_load_a_pickle():
    package = Path(minipelt.__file__).parent
    sources = [*package.rglob("*.py"), package.parent / "train.py"]
    assert len(sources) > 30
    for path in sources:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"torch\.load\(|import pickle|pickle\.load|allow_pickle", text), path


# ---- config.json against the tensors


def peak_memory():
    """The most memory, in bytes, that this process has ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


BIG_CONFIGS = [
    {"num_hidden_layers": 10**6},
    {"hidden_size": 10**5, "num_attention_heads": 10},
    {"hidden_size": 65_536, "num_attention_heads": 64},
    {"hidden_size": 65_536, "num_attention_heads": 64, "intermediate_size": 262_144, "vocab_size": 10_000_000},
    {"max_position_embeddings": 1_000_000},
    {"num_hidden_layers": 3.0},
    {"num_hidden_layers": [3]},
    {"hidden_size": True},
    {"vocab_size": None},
    {"vocab_size": len(WORDS) + 1},
]


@pytest.mark.parametrize("pooler", [True, False], ids=["pooler", "no pooler"])
@pytest.mark.parametrize("change", BIG_CONFIGS, ids=str)
def test_a_config_that_the_tensors_do_not_fit_is_refused_at_once_and_costs_no_memory(tiny_folder, change, pooler):
    """The largest would be an encoder of 2 terabytes."""
    if not pooler:
        rewrite(tiny_folder, lambda tensors: without(tensors, "pooler."))
    (tiny_folder / "config.json").write_text(json.dumps(asdict(TINY) | change))
    load_tokenizer(tiny_folder)  # whatever the libraries load the first time is not counted
    before, started = peak_memory(), time.process_time()
    with pytest.raises(InputError) as caught:
        load(tiny_folder)
    assert "\n" not in str(caught.value)
    assert str(tiny_folder) in str(caught.value)
    assert time.process_time() - started < 5
    assert peak_memory() - before < 300 * 2**20


# ---- tokenizer


def test_vocab_alone_makes_a_tokenizer_that_lower_cases_as_it_should(tiny_folder):
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "a", "##b", "c", "[SEP]"]
    (tiny_folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "[UNK]", "c", "[SEP]"]
    (tiny_folder / "tokenizer_config.json").unlink()
    with open(tiny_folder / "vocab.txt", "a") as vocab:
        vocab.write("Ab\n")  # a capital in the vocabulary: a cased model
    assert load_tokenizer(tiny_folder).encode("Ab c").tokens == ["[CLS]", "Ab", "c", "[SEP]"]


def test_pairs_get_token_types(tiny_folder):
    encoding = load_tokenizer(tiny_folder).encode("a b", "c")
    assert encoding.tokens == ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1]


def test_the_vocabulary_alone_tokenises_as_minilms_tokenizer_json_does(minilm, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((weights.find("all-MiniLM-L6-v2") / "vocab.txt").read_bytes())
    rebuilt, text = load_tokenizer(tmp_path), "Unaffable naïve Café 北京, it's 3.5% — don't!"
    assert rebuilt.encode(text, "B").ids == minilm[1].encode(text, "B").ids


def test_a_tokenizer_neither_pads_nor_truncates(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    tokenizer.enable_padding(length=20)
    tokenizer.enable_truncation(5)
    (tiny_folder / "tokenizer.json").write_text(tokenizer.to_str())
    assert len(load_tokenizer(tiny_folder).encode("a " * 30).ids) == 32
    assert len(load_tokenizer(tiny_folder).encode("a").ids) == 3


def test_broken_tokenizer_files_are_named(tiny_folder):
    (tiny_folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="tokenizer_config.json: expected a JSON object"):
        load_tokenizer(tiny_folder)
    (tiny_folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="tokenizer.json: not a tokenizer"):
        load_tokenizer(tiny_folder)


def test_a_vocabulary_with_a_word_too_many_is_refused(tiny_folder):
    """The encoder has no embedding for it."""
    load(tiny_folder)
    with open(tiny_folder / "vocab.txt", "a") as vocab:
        vocab.write("surplus\n")
    with pytest.raises(InputError, match=f"has a token number {len(WORDS)}; the encoder's vocabulary ends at"):
        load(tiny_folder)


def test_a_tokenizer_json_with_a_number_too_large_is_refused(tiny_folder):
    tokenizer = json.loads(load_tokenizer(tiny_folder).to_str())
    tokenizer["model"]["vocab"]["surplus"] = 10**6
    (tiny_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="has a token number 1000000; the encoder's vocabulary ends at 71"):
        load(tiny_folder)


def test_an_added_token_beyond_the_embedding_is_refused(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder)
    tokenizer.add_tokens(["surplus"])
    (tiny_folder / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(InputError, match="has a token number 72"):
        load(tiny_folder)


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[UNK]"])
def test_a_vocabulary_without_a_special_token_is_refused(tiny_folder, token):
    words = [word for word in WORDS if word != token]
    (tiny_folder / "vocab.txt").write_text("\n".join(words) + "\n")
    with pytest.raises(InputError, match=re.escape(f"vocab.txt: no {token} in the vocabulary")):
        load_tokenizer(tiny_folder)


def test_a_tokenizer_json_without_a_special_token_is_refused(tiny_folder):
    tokenizer = json.loads(load_tokenizer(tiny_folder).to_str())
    tokenizer["post_processor"] = None
    tokenizer["model"]["vocab"].pop("[CLS]")
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "[CLS]"]
    (tiny_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"no \[CLS\] in the vocabulary"):
        load_tokenizer(tiny_folder)


@pytest.mark.parametrize("text", [b"", b"\n", b"[CLS]\n", "[PAD]\n[UNK]\n[CLS]\n[SEP]\ncaf\xe9\n".encode("latin-1")])
def test_a_vocabulary_that_is_none_is_refused(tiny_folder, text):
    (tiny_folder / "vocab.txt").write_bytes(text)
    with pytest.raises(InputError, match=r"vocab.txt: (no \[|line 5: not UTF-8)"):
        load_tokenizer(tiny_folder)


def test_a_smaller_vocabulary_than_the_embedding_is_fine(tiny_folder, tiny):
    """Many encoders have more embeddings than words, for the size of their matrix."""
    config = replace(TINY, vocab_size=80)
    (tiny_folder / "config.json").write_text(json.dumps(asdict(config)))
    wide = torch.cat([tiny.embeddings.word_embeddings.weight.detach(), torch.zeros(8, 32)])
    rewrite(tiny_folder, lambda tensors: tensors | {"embeddings.word_embeddings.weight": wide})
    assert load(tiny_folder)[0].config.vocab_size == 80
