"""Fingerprints: short hashes by which a run recognises the base and the rows that it was trained with.

Two bases can have the same shapes and the same name, and a training file can lose a line. Trained tensors on another
base, or a resumed run on other rows, would give numbers without a word; with a fingerprint they are refused.
"""

import hashlib
import json
from array import array
from dataclasses import asdict

LENGTH = 16  # hexadecimal digits that are kept: 64 bits


def of_base(bert, tokenizer) -> str:
    """The fingerprint of a BertModel and its tokenizer: config, every tensor, vocabulary and rules."""
    digest = hashlib.sha256(json.dumps(asdict(bert.config)).encode())
    digest.update(tokenizer.to_str().encode())
    for name, tensor in bert.state_dict().items():
        if bert.pooler_is_new and name.startswith("pooler."):
            continue  # drawn by the run's seed
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:LENGTH]


def of_rows(rows) -> str:
    """The fingerprint of batches.Rows: token numbers and labels, in their order."""
    digest = hashlib.sha256()
    for ids, types in zip(rows.input_ids, rows.token_type_ids, strict=True):
        digest.update(array("i", ids).tobytes())
        digest.update(array("b", types).tobytes())
    digest.update(rows.labels.numpy().tobytes())
    return digest.hexdigest()[:LENGTH]
