"""results.py: the lines of a sweep, whole whatever happens to the process that writes them."""

import json
from dataclasses import asdict, replace

import pytest

from minipelt.errors import InputError
from minipelt.paper.results import append, check_protocol, mend, read_results, settings
from minipelt.settings import Method, Recipe, Run

RUN = Run("cola", Method("lora"), Recipe(1e-3), glue="glue", k=100)


def line_of(run, **more):
    """A line as a sweep writes it."""
    return {"run": asdict(run), **more}


def test_lines_come_back_in_their_order(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_results(path) == []
    values = [line_of(RUN, error="né"), line_of(replace(RUN, task="sst2"), results={})]
    for value in values:
        append(path, value)
    assert read_results(path) == json.loads(json.dumps(values))


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, {"run": {"seed": 1}})
    append(path, {"run": {"seed": 2}, "error": "no"})
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"run": {"se')
    assert len(read_results(path)) == 2
    mend(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["hello", "{}", "[]", "3", '{"run": '])
def test_a_foreign_results_file_is_refused_and_kept(tmp_path, line):
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"run": {{}}}}\n{line}\n')
    with pytest.raises(InputError, match="line 2: not a line that a sweep wrote"):
        mend(path)
    assert path.read_text() == f'{{"run": {{}}}}\n{line}\n'


def test_what_needs_no_mending_is_not_written_again(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, line_of(RUN, results={}))
    before = path.stat().st_ino
    mend(path)
    assert path.stat().st_ino == before


def test_only_the_failures_of_the_named_runs_are_forgotten(tmp_path):
    path = tmp_path / "results.jsonl"
    other = replace(RUN, task="sst2")
    for run, more in ((RUN, {"error": "no"}), (other, {"error": "no"}), (RUN, {"results": {}})):
        append(path, line_of(run, **more))
    mend(path, again={settings(RUN)})
    assert [(record["run"]["task"], "error" in record) for record in read_results(path)] == [
        ("sst2", True), ("cola", False),
    ]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (mend, lambda path: append(path, {})):
        with pytest.raises(InputError, match="results.jsonl: cannot be written"):
            write(tmp_path / "file" / "results.jsonl")


# ---- what makes a run this run


def test_where_the_files_lie_and_the_device_do_not_matter():
    assert settings(RUN) == settings(replace(RUN, glue="/data/glue", device="cuda"))


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
    append(path, line_of(RUN, results={}))
    with pytest.raises(InputError, match=message):
        check_protocol([replace(RUN, **change)], path)


def test_other_methods_seeds_and_tasks_go_into_one_folder(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, line_of(RUN, results={}))
    append(path, line_of(replace(RUN, task="rte", valid_rows=3), error="a failure binds nobody"))
    check_protocol([replace(RUN, method=Method("apl"), recipe=Recipe(2e-3, seed=9), k=None)], path)
    check_protocol([replace(RUN, task="sst2", recipe=Recipe(1e-3, epochs=3)), replace(RUN, task="rte")], path)
