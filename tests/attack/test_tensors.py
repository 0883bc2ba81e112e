"""Every tensor of every safetensors file, damaged: it is refused in one line, and the model stays as it was."""

import copy
import json
import shutil
from dataclasses import asdict

import pytest
import torch
from attack.machinery import TALLY, assert_refused, mangle_all, run, some, write_base, write_glue
from helpers import disturb, interrupt_at, tiny_run
from safetensors.torch import load_file, save_file

from minipelt.checkpoint import load_tensors, load_trained, load_training, save_tensors, trained_tensors
from minipelt.errors import InputError
from minipelt.experiment import build, load_base, new_folder, prepare, run_experiment
from minipelt.loop import make_optimizer
from minipelt.settings import PARTS
from minipelt.unipelt import trained_parameters
from minipelt.weights import load

METHODS = [*PARTS, "apl"]


def larger(x):
    """One row more."""
    return torch.cat([x, x[:1]])


def with_first(value):
    """A change that puts a value into the first place."""

    def change(x):
        changed = x.clone()
        changed.view(-1)[0] = value
        return changed

    return change


DAMAGES = {  # name: tensor -> another tensor, or None to leave it out
    "missing": lambda x: None,
    "larger": larger,
    "smaller": lambda x: x[:-1],
    "empty": lambda x: x[:0],
    "scalar": lambda x: x.flatten()[0] if x.ndim else x[None, None],
    "one axis more": lambda x: x[None],
    "flat": lambda x: x.flatten() if x.ndim > 1 else x[None],
    "transposed": lambda x: x.T if x.ndim == 2 else x[:, None],
    "half": lambda x: x.half(),
    "double": lambda x: x.double(),
    "whole numbers": lambda x: x.to(torch.int64),
    "bytes": lambda x: x.to(torch.uint8),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "nan": lambda x: with_first(float("nan"))(x.float()),
    "infinite": lambda x: with_first(float("inf"))(x.float()),
    "minus infinite": lambda x: with_first(-float("inf"))(x.float()),
}
OF_AN_AXIS = {"larger", "smaller", "empty", "transposed"}  # a tensor without axes has none of these
HARMLESS_IN_A_BASE = {"half", "double"}  # a base is read in float32, whatever it is written in


def damaged(tensors, name, damage):
    """Tensors with one of them damaged; None where the damage is none."""
    whole = tensors[name]
    if whole.ndim == 0 and damage in OF_AN_AXIS:
        return None
    changed = DAMAGES[damage](whole)
    if changed is None:
        return {other: tensor for other, tensor in tensors.items() if other != name}
    if changed.shape == whole.shape and changed.dtype == whole.dtype and changed.isfinite().all():
        return None  # such as a square matrix, transposed: as good as any other numbers
    return tensors | {name: changed.contiguous().clone()}


def damage_all(tensors):
    """(place, tensors) for every tensor and damage, and with a tensor too many."""
    yield "an extra tensor", lambda: tensors | {"extra": torch.zeros(2)}
    for name in tensors:
        for damage in DAMAGES:
            yield f"{name} {damage}", lambda name=name, damage=damage: damaged(tensors, name, damage)


def broken_files(path, dice):
    """(place, bytes) of a safetensors file that is cut off, or whose header is mangled."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for end in (0, 1, 7, 8, 8 + size // 2, 8 + size, len(data) - 1, *(dice.randrange(len(data)) for _ in range(10))):
        yield f"cut at {end}", data[:end]
    for number in (0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {number}", number.to_bytes(8, "little") + data[8:]
    for name, _, _, text in mangle_all(dict(list(header.items())[:4])):
        changed = text.encode("utf-8", "surrogatepass")
        if name.startswith("all"):
            yield f"header {name}", len(changed).to_bytes(8, "little") + changed + data[8 + size :]
        elif "deep" not in name:
            changed = json.dumps(header | json.loads(text)).encode()
            if "removed" in name and "." not in name:
                key = name.split(" ")[0]
                changed = json.dumps({k: v for k, v in header.items() if k != key}).encode()
            yield f"header {name}", len(changed).to_bytes(8, "little") + changed + data[8 + size :]


def equal(one, other):
    """Whether two state dicts hold the same."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refuses(load, place):
    """Call load(), which must raise an InputError of one line."""
    TALLY["damaged tensors refused"] += 1
    try:
        load()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, f"{place}: {error}"
        return
    except Exception as error:
        raise AssertionError(f"{place}: {error!r}") from error
    raise AssertionError(f"{place}: loaded without a word")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """prepared(method) -> (model with the method attached, its Run); the base is read once."""
    folder = tmp_path_factory.mktemp("tensors")
    base = write_base(folder / "base")
    bert, tokenizer = load_base(str(base), "cpu")

    def make(method):
        settings = tiny_run(base, "rte", method)
        return build(settings, "cpu", lambda name, device: (copy.deepcopy(bert), tokenizer))[0], settings

    return make


# ---- what a run keeps


@pytest.mark.parametrize("method", METHODS)
def test_trained(method, prepared, tmp_path, dice):
    path = tmp_path / "trained.safetensors"
    disturbed, _ = prepared(method)
    tensors = {name: tensor.contiguous().clone() for name, tensor in trained_tensors(disturb(disturbed)).items()}
    model, _ = prepared(method)
    before = copy.deepcopy(model.state_dict())
    for place, make in some(damage_all(tensors), dice):
        changed = make()
        if changed is not None:
            save_file(changed, path)
            refuses(lambda: load_trained(model, path), place)
            assert equal(model.state_dict(), before), place
    save_file(tensors, path)
    for place, data in some(broken_files(path, dice), dice):
        other = tmp_path / "broken.safetensors"
        other.write_bytes(data)
        TALLY["broken safetensors files"] += 1
        try:
            load_trained(model, other)
        except InputError as error:
            assert "\n" not in str(error), place
            assert equal(model.state_dict(), before), place
            continue
        assert equal(trained_tensors(model), tensors), place  # what nobody reads was mangled
        model, _ = prepared(method)
    load_trained(model, path)
    assert equal(trained_tensors(model), tensors)


# ---- what it takes to go on


@pytest.mark.parametrize("method", METHODS)
def test_resume(method, prepared, tmp_path, dice):
    path = tmp_path / "resume.safetensors"
    model, settings = prepared(method)
    optimizer = make_optimizer(model, settings.recipe)
    before, tensors = copy.deepcopy(model.state_dict()), {}
    for name, parameter in trained_parameters(model).items():
        for key in (name, f"{name}:exp_avg", f"{name}:exp_avg_sq"):
            tensors[key] = torch.rand(parameter.shape)
    report = {"epoch": 1, "loss": 0.5, "score": 0.5, "best_score": 0.5, "best_epoch": 1}
    said = {"reports": json.dumps([report | {"train_seconds": 1.0, "validation_seconds": 1.0}])}

    def assert_refuses(place):
        refuses(lambda: load_training(path, model, optimizer, 3), place)
        assert equal(model.state_dict(), before) and not optimizer.state, place

    for place, make in some(damage_all(tensors), dice):
        changed = make()
        if changed is not None:
            save_file(changed, path, said)
            assert_refuses(place)
    for name, _, _, text in mangle_all([report]):
        if name not in ("0.loss zero", "0.loss huge"):  # nobody can tell that the loss was another
            save_file(tensors, path, {"reports": text.encode("utf-8", "replace").decode()})
            assert_refuses(name)
    save_file(tensors, path, said)
    assert load_training(path, model, optimizer, 3) == json.loads(said["reports"])
    assert all(torch.equal(model.get_parameter(name), tensors[name]) for name in trained_parameters(model))


@pytest.mark.parametrize("method", ["ft", "apl", "diff"])
def test_a_run_refuses_to_go_on_from_a_damaged_file(method, shared_base, tmp_path, dice):
    """By the command, and the folder stays as it was: what is still good in it is not lost."""
    glue = str(write_glue(tmp_path / "glue"))
    settings = tiny_run(shared_base, "rte", method, epochs=3, k=8, valid_rows=4, glue=glue)
    folder = new_folder(settings, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(prepare(settings), folder, interrupt_at(2), save_seconds=0)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("resume.safetensors", "trained.safetensors"):
        tensors, said = load_tensors(folder / name)
        for place, make in some(damage_all(tensors), dice, share=1 / 60):
            changed = make()
            if changed is not None:
                save_file(changed, folder / name, said)
                damaged_file = (folder / name).read_bytes()
                TALLY["damaged tensors refused"] += 1
                assert_refused(run("train", "--resume", folder), f"{name}: {place}")
                left = {path.name: path.read_bytes() for path in folder.iterdir()}
                assert left == files | {name: damaged_file}, f"{name}: {place}"
        (folder / name).write_bytes(files[name])
    assert run("train", "--resume", folder)[0] == 0


# ---- bases


def test_base(tmp_path, dice):
    base = write_base(tmp_path / "base")
    path = base / "model.safetensors"
    tensors, whole = load_file(path), path.read_bytes()
    expected = load(str(base))[0].state_dict()
    for place, make in some(damage_all(tensors), dice, share=1 / 5):
        changed = make()
        if changed is None:
            continue
        save_file(changed, path)
        if place.split(" ")[-1] in HARMLESS_IN_A_BASE:
            assert load(str(base))[0].state_dict().keys() == expected.keys()
        else:
            refuses(lambda: load(str(base)), place)
    path.write_bytes(whole)
    for place, data in some(list(broken_files(path, dice)), dice, share=1 / 5):
        path.write_bytes(data)
        TALLY["broken safetensors files"] += 1
        try:
            found = load(str(base))[0].state_dict()
        except InputError as error:
            assert "\n" not in str(error), place
            continue
        assert equal(found, expected), place


# ---- PEFT


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_peft(method, shared_base, tmp_path, dice):
    settings = tiny_run(shared_base, "rte", method)
    folder, peft, out = new_folder(settings, tmp_path), tmp_path / "peft", tmp_path / "out"
    model = disturb(build(settings, "cpu")[0])
    save_tensors(trained_tensors(model), folder / "trained.safetensors")
    (folder / "run.json").write_text(json.dumps({"run": asdict(settings)}))
    assert run("export", folder, "--to", "peft", "--out", peft)[0] == 0
    path = peft / "adapter_model.safetensors"
    tensors, whole = load_file(path), path.read_bytes()
    command = ["export", peft, "--from", "peft", "--task", "rte", "--out", out]
    for place, make in some(damage_all(tensors), dice, share=1 / 10):
        changed = make()
        if changed is None:
            continue
        save_file(changed, path)
        if place.split(" ")[-1] in HARMLESS_IN_A_BASE:
            assert run(*command)[0] == 0
            shutil.rmtree(out)
        else:
            TALLY["damaged tensors refused"] += 1
            assert_refused(run(*command), place)
            assert not out.exists()
    path.write_bytes(whole)
    for place, data in some(list(broken_files(path, dice)), dice, share=1 / 10):
        path.write_bytes(data)
        TALLY["broken safetensors files"] += 1
        result = run(*command)
        if result[0]:
            assert_refused(result, place)
        else:
            assert equal(load_file(out / "trained.safetensors"), trained_tensors(model)), place
            shutil.rmtree(out)
