"""Write peft-base/, peft-lora/ and peft-prefix/: folders and logits of Hugging Face's own code, for the tests to read.

    pip install transformers peft && python tests/golden/make_peft.py

Made with transformers 5.23.0 and peft 0.21.2, which minipelt and its tests do not need.
"""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

HERE = Path(__file__).parent
torch.manual_seed(3)
config = BertConfig(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=32,
)
base = BertForSequenceClassification(config)
for parameter in base.parameters():
    parameter.data.add_(0.1 * torch.randn_like(parameter))
base.save_pretrained(HERE / "peft-base")
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(ord("a"), ord("z") + 1)), *"0123456789"[:9]]
(HERE / "peft-base" / "vocab.txt").write_text("\n".join(words) + "\n")
input_ids = torch.randint(5, 40, (3, 7))
attention_mask = (torch.arange(7) < torch.tensor([[7], [4], [6]])).long()

for name, settings in (
    ("lora", LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, lora_dropout=0.1, target_modules=["query", "value"])),
    ("prefix", PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)),
):
    model = get_peft_model(BertForSequenceClassification.from_pretrained(HERE / "peft-base"), settings).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    if name == "prefix":  # transformers counts positions on from the prefix; the paper, its authors and minipelt do not
        embeddings = model.base_model.bert.embeddings
        embeddings.position_embeddings.weight.data = embeddings.position_embeddings.weight.data.roll(5, dims=0)
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    model.save_pretrained(HERE / f"peft-{name}")
    (HERE / f"peft-{name}" / "README.md").unlink(missing_ok=True)
    path = HERE / f"peft-{name}" / "adapter_config.json"
    written = json.loads(path.read_text()) | {"base_model_name_or_path": "tests/golden/peft-base"}
    path.write_text(json.dumps(written, indent=2) + "\n")
    values = {"input_ids": input_ids, "attention_mask": attention_mask, "logits": logits}
    lists = {key: tensor.tolist() for key, tensor in values.items()}
    (HERE / f"peft-{name}" / "logits.json").write_text(json.dumps(lists) + "\n")
