"""results.py: the lines of a sweep, whole whatever happens to the process that writes them."""

import json
from dataclasses import asdict, replace

import pytest

from minipelt.errors import InputError
from minipelt.paper.results import append, check_protocol, mend, read_results, read_sweep, read_timing, settings
from minipelt.paper.sweep import runs_on_record
from minipelt.settings import Method, Recipe, Run

RUN = Run("cola", Method("lora"), Recipe(1e-3), glue="glue", k=100)


def line_of(run, **more):
    """A line of a run, that failed or has the results that stand in `more`."""
    return {"run": asdict(run), **more}


def finished(run):
    """The line of a run that ended well, as a sweep writes it."""
    results = {"test": {metric: 0.5 for metric in run.spec.metrics}, "gates": {}, "best_epoch": 1, "epochs": 2}
    return line_of(run, parameters={"lora": 7, "head": 2, "base": 100}, results=results)


def test_lines_come_back_in_their_order(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_results(path) == []
    values = [line_of(RUN, error="né"), finished(replace(RUN, task="sst2"))]
    for value in values:
        append(path, value)
    assert [line.record for line in read_results(path)] == json.loads(json.dumps(values))


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, finished(RUN))
    append(path, line_of(replace(RUN, task="sst2"), error="no"))
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"run": {"se')
    assert len(read_results(path)) == 2
    mend(path)
    assert path.read_bytes() == whole


WHOLE = finished(RUN)
FOREIGN = [
    ("hello", "not a line that a sweep wrote"),
    ('{"run": ', "not a line that a sweep wrote"),
    ("[" * 100_000, "not a line that a sweep wrote"),
    ("[]", "line 2 is []; expected an object"),
    ("3", "line 2 is 3; expected an object"),
    ("{}", "run is None; expected an object"),
    (json.dumps(line_of(RUN)), "expected results and parameters, or an error"),
    (json.dumps(line_of(RUN, error=3)), "expected results and parameters, or an error"),
    (json.dumps(WHOLE | {"error": "no"}), "expected results and parameters, or an error"),
    (json.dumps(line_of(RUN, results=WHOLE["results"])), "expected results and parameters, or an error"),
    (json.dumps(WHOLE | {"results": {}}), "results: no test; expected it with test, gates"),
    (json.dumps(WHOLE | {"results": WHOLE["results"] | {"test": {"accuracy": 1}}}), "results: test: no matthews"),
    (json.dumps(WHOLE | {"results": WHOLE["results"] | {"test": {"matthews": float("nan")}}}), "matthews is nan"),
    (json.dumps(WHOLE | {"results": WHOLE["results"] | {"test": {"matthews": 50}}}), "expected a number from -1 to 1"),
    (json.dumps(WHOLE | {"results": WHOLE["results"] | {"gates": {"lora": 0.5}}}), "gates: lora is 0.5"),
    (json.dumps(WHOLE | {"results": WHOLE["results"] | {"best_epoch": True}}), "best_epoch is True"),
    (json.dumps(WHOLE | {"parameters": {"lora": 7, "head": 2, "base": "x"}}), "parameters: base is 'x'"),
    (json.dumps(WHOLE | {"parameters": {"lora": 7, "head": 2}}), "parameters: no base"),
]


@pytest.mark.parametrize("line, message", FOREIGN, ids=[f"{message}-{i}" for i, (_, message) in enumerate(FOREIGN)])
def test_a_foreign_results_file_is_refused_and_kept(tmp_path, line, message):
    path = tmp_path / "results.jsonl"
    text = f"{json.dumps(WHOLE)}\n{line}\n"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_sweep(path)
    assert f"{path}: line 2" in str(caught.value) and message in str(caught.value)
    assert path.read_text() == text


def test_what_needs_no_mending_is_not_written_again(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, finished(RUN))
    before = path.stat().st_ino
    mend(path)
    assert path.stat().st_ino == before


def test_only_the_failures_of_the_named_runs_are_forgotten(tmp_path):
    path = tmp_path / "results.jsonl"
    other = replace(RUN, task="sst2")
    for run, more in ((RUN, {"error": "no"}), (other, {"error": "no"}), (RUN, finished(RUN))):
        append(path, line_of(run) | more)
    mend(path, again={settings(RUN)})
    assert [(run.task, "error" in record) for run, record in read_results(path)] == [
        ("sst2", True), ("cola", False),
    ]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (mend, lambda path: append(path, {})):
        with pytest.raises(InputError, match="results.jsonl: cannot be written"):
            write(tmp_path / "file" / "results.jsonl")


# ---- timing.json

TIMING = {
    "model": "tiny", "task": "rte", "batch_size": 4, "repeats": 3, "threads": 1, "device": "cpu", "base": 99,
    "methods": [
        {"method": "ft", "parameters": 9, "training": 1.0, "inference": 1.0},
        {"method": "lora", "parameters": 7, "training": 0.5, "inference": 1.25},
    ],
}


@pytest.mark.parametrize("change, message", [
    ({"device": 3}, "device is 3; expected a name"),
    ({"base": 0}, "base is 0; expected a whole number from 1 on"),
    ({"methods": []}, r"methods is \[\]"),
    ({"methods": [3]}, "a method is 3; expected an object"),
    ({"methods": TIMING["methods"][1:]}, "the first method is lora; expected ft"),
    ({"methods": [TIMING["methods"][1] | {"method": "adaptor"}]}, "unknown method 'adaptor'"),
    ({"methods": [TIMING["methods"][1] | {"training": float("nan")}]}, "training of lora is nan"),
    ({"methods": [TIMING["methods"][1] | {"parameters": "7"}]}, "parameters of lora is '7'"),
])
def test_what_was_timed_is_read_with_every_field_checked(tmp_path, change, message):
    path = tmp_path / "timing.json"
    path.write_text(json.dumps(TIMING))
    assert read_timing(path) == TIMING
    path.write_text(json.dumps(TIMING | change))
    with pytest.raises(InputError, match=f"timing.json: .*{message}|{message}"):
        read_timing(path)


# ---- what makes a run this run


def test_where_the_files_lie_and_the_device_do_not_matter():
    assert settings(RUN) == settings(replace(RUN, glue="/data/glue", device="cuda"))


@pytest.mark.parametrize("change", [
    {"recipe": Recipe(1e-3, accumulate=2)}, {"compile": True}, {"gradient_checkpointing": True},
])
def test_what_leaves_the_result_as_it_is_does_not_matter_either(tmp_path, change):
    """As after a run without memory, when the sweep is repeated with its advice: what is done stays done."""
    path = tmp_path / "results.jsonl"
    older = finished(RUN)
    del older["run"]["recipe"]["accumulate"]
    for line in (finished(RUN), finished(replace(RUN, **change)), older):
        append(path, line)
    assert runs_on_record(path) == {settings(replace(RUN, **change))}


def test_sample_rows_do_not_count_as_the_real_ones():
    assert settings(replace(RUN, glue="miniglue")) != settings(RUN)


@pytest.mark.parametrize("change", [
    {"task": "sst2"}, {"method": Method("apl")}, {"recipe": Recipe(2e-3)}, {"recipe": Recipe(1e-3, seed=2)},
    {"model": "other"}, {"k": None}, {"valid_rows": 7}, {"max_length": 64},
])
def test_all_else_does(change):
    assert settings(replace(RUN, **change)) != settings(RUN)


@pytest.mark.parametrize("change, message", [
    ({"recipe": Recipe(1e-3, epochs=3)}, "has runs of cola with epochs 50; for 3, expected another --out"),
    ({"recipe": Recipe(1e-3, patience=3)}, "patience 10"),
    ({"recipe": Recipe(1e-3, batch_size=3)}, "batch_size 16"),
    ({"model": "other"}, "model all-MiniLM-L6-v2"),
    ({"glue": "miniglue"}, "data GLUE; for the sample rows"),
    ({"valid_rows": 7}, "valid_rows 1000"),
    ({"max_length": 64}, "max_length 128"),
])
def test_another_protocol_wants_another_folder(tmp_path, change, message):
    path = tmp_path / "results.jsonl"
    append(path, finished(RUN))
    with pytest.raises(InputError, match=message):
        check_protocol([replace(RUN, **change)], path)


def test_other_methods_seeds_and_tasks_go_into_one_folder(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, finished(RUN))
    append(path, line_of(replace(RUN, task="rte", valid_rows=3), error="a failure binds nobody"))
    check_protocol([replace(RUN, method=Method("apl"), recipe=Recipe(2e-3, seed=9), k=None)], path)
    check_protocol([replace(RUN, task="sst2", recipe=Recipe(1e-3, epochs=3)), replace(RUN, task="rte")], path)
