"""Fold what a method has trained into BERT's own matrices: the same answers, at the price of plain BERT.

    lora    W <- W_0 + s B A                diff    W <- W_0 + its difference
    dora    W <- m V / |V|                  ia3     rows or columns scaled              bitfit, ft ...  W as it is
"""

from importlib import import_module

from torch.nn.utils import parametrize

from minipelt.errors import InputError
from minipelt.settings import PARTS
from minipelt.unipelt import slots


def fold(model):
    """Fold what can be, in place. Returns the names of the parts that it folded.

    A matrix that a method rewrites (a parametrization) becomes what it is rewritten to; other parts say how in a
    function `merge` of their file in methods/. A gate's scale depends on the input, so no matrix equals a part that
    has one.
    """
    model.eval()
    folded = set()
    for module in list(model.bert.modules()):
        if parametrize.is_parametrized(module, "weight"):
            folded.update(each.part for each in module.parametrizations.weight)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    for part in model.method.parts:  # in the table's order: ia3 scales what LoRA has added to
        file = import_module(f"minipelt.methods.{part}")
        gated = PARTS[part].gateable and model.method.gated
        if hasattr(file, "merge") and not gated:
            file.merge(model.bert)
            folded.add(part)
    return folded


def merge(model):
    """A trained BertClassifier -> the state dict of a plain BERT with a head. Raises InputError if a part stays."""
    fold(model)
    filled = [getattr(module, slot) for _, module, slot in slots(model)]
    left = sorted({module.part for module in filled if hasattr(module, "part")})
    if left:
        name = model.method.name
        raise InputError(f"method {name} does not fold into BERT's own weights: {', '.join(left)} cannot be merged")
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
