"""files.py: whole files or none, and one process at a time in a folder."""

import subprocess
import sys
import time

import pytest
from helpers import ENVIRONMENT

from minipelt.errors import InputError
from minipelt.files import alone_in, append_json_lines, load_json, read_lines, save_json, write_bytes

HOLD = """
import sys, time
from minipelt.files import alone_in
with alone_in(sys.argv[1]):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_a_failed_write_keeps_the_older_file_and_leaves_no_part(tmp_path):
    path = tmp_path / "a.json"
    save_json({"a": 1}, path)
    with pytest.raises(TypeError):
        save_json({"a": object()}, path)
    with pytest.raises(TypeError):
        write_bytes(path, object())
    assert load_json(path) == {"a": 1} and [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_lines_are_appended(tmp_path):
    append_json_lines(tmp_path / "log", [{"a": 1}])
    append_json_lines(tmp_path / "log", [{"a": 2}, {"a": 3}])
    assert read_lines(tmp_path / "log") == ['{"a": 1}', '{"a": 2}', '{"a": 3}']


@pytest.mark.parametrize("content, message", [
    (b"{", "not valid JSON"), (b"[" * 100_000, "not valid JSON .nested too deeply"), (b"\xff", "not valid JSON"),
])
def test_broken_json_is_one_sentence(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        load_json(tmp_path / "b.json")
    with pytest.raises(InputError, match="is a directory"):
        load_json(tmp_path)


def test_alone_again_after_the_block(tmp_path):
    for _ in range(2):
        with alone_in(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_process_at_a_time_and_a_killed_one_leaves_nothing(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "inside\n"
    with pytest.raises(InputError, match="another process is at work there"), alone_in(tmp_path):
        pass
    process.kill()
    process.wait()
    time.sleep(0.1)
    with alone_in(tmp_path):
        pass
