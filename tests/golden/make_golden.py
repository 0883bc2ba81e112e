"""Write golden.safetensors beside this file: what the reference implementation computes, for tests/test_bert.py.

    pip install transformers && python tests/golden/make_golden.py

Only this script uses transformers. MiniLM: every layer's hidden states for a padded batch of pairs, each 16th feature.
Random: a small config whose weights are drawn from a numpy RandomState (its stream is frozen for good), all hidden
states.
"""

from pathlib import Path

import numpy as np
import torch
import transformers
from random_weights import RANDOM, random_weights
from safetensors.torch import save_file
from transformers import AutoTokenizer, BertConfig, BertModel

from minipelt.weights import find

TEXTS = [
    ("A man is slicing bread .", "Someone cuts a loaf of bread in the kitchen ."),
    ("The train was late again !", "Unaffable naïve café"),
]


def main():
    """Compute and write the values."""
    folder = find("all-MiniLM-L6-v2")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    output = model(**batch, output_hidden_states=True)
    golden = {f"minilm.{name}": batch[name].contiguous() for name in ("input_ids", "attention_mask", "token_type_ids")}
    golden["minilm.hidden_states"] = torch.stack(output.hidden_states)[..., ::16].contiguous()  # (N + 1, B, T, D / 16)
    golden["minilm.pooled"] = output.pooler_output

    model = BertModel(BertConfig(**RANDOM)).eval()
    weights = random_weights({name: p.shape for name, p in model.named_parameters()})
    model.load_state_dict(weights, strict=False)
    stream = np.random.RandomState(21)
    golden["random.input_ids"] = torch.tensor(stream.randint(0, 60, size=(3, 11)))
    golden["random.token_type_ids"] = torch.tensor(stream.randint(0, 2, size=(3, 11)))
    golden["random.attention_mask"] = (torch.arange(11) < torch.tensor([[11], [4], [7]])).long()
    names = ("input_ids", "token_type_ids", "attention_mask")
    output = model(**{name: golden[f"random.{name}"] for name in names}, output_hidden_states=True)
    golden["random.hidden_states"] = torch.stack(output.hidden_states)  # (N + 1, B, T, D)
    golden["random.pooled"] = output.pooler_output
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    tensors = {name: tensor.detach().contiguous() for name, tensor in golden.items()}
    save_file(tensors, Path(__file__).with_name("golden.safetensors"), versions)


if __name__ == "__main__":
    main()
