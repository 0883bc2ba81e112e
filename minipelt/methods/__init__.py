"""The methods, a file each: the equation, the module, its start with the reason, and how it is attached.

A method is its file here and its row in `settings.PARTS`. The file has at least one of

    attach(model, method, gate)           what the model has once: model is a BertClassifier, method a settings.Method
    attach_layer(layer, method, gate)     what every layer has: layer is a BertLayer

`gate()` makes the gate for one module, or gives None where the method has none. A module that a file adds names its
part in a class attribute, `part = "lora"`, and its formula in another, `equation`; counting, saving and describing go
by these.

A module that is saved as something other than its parameters has a pair of methods and a number,

    saved_state() -> {name: tensor}       what a run keeps
    load_saved_state(tensors)             put it back, into a module that was just made
    num_saved                             how many trained numbers that is

and so keeps out of the file what only training needs. Where a method lets parameters of the pretrained encoder train,
it says so through `unfreeze`.
"""


def unfreeze(model, part, parameters):
    """Let pretrained parameters of a BertClassifier train, in the name of a part.

    parameters: {name in model.bert: parameter}. One that trains already is left alone: an earlier part owns it.
    """
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            parameter.requires_grad_(True)
            model.base_parts[f"bert.{name}"] = part
