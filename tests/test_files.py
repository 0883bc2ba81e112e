"""files.py: read with a clear error, written whole or not at all, and one process at a time in a folder."""

import os
import subprocess
import sys
import time

import pytest
from helpers import ENVIRONMENT

from minipelt.errors import InputError
from minipelt.files import (
    alone_in,
    append_json_lines,
    load_json,
    make_folder,
    move_into_place,
    read_bytes,
    read_lines,
    save_json,
    scratch_folder,
    write_bytes,
    write_text,
)


def names(folder):
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_json_comes_back_or_is_refused(tmp_path):
    path = tmp_path / "a.json"
    save_json({"a": 1}, path)
    assert load_json(path) == {"a": 1}
    path.write_text("{")
    with pytest.raises(InputError, match="a.json: not valid JSON"):
        load_json(path)
    path.write_bytes(b'"caf\xe9"')
    with pytest.raises(InputError, match="a.json: not valid JSON"):
        load_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="a.json: not valid JSON .nested too deeply"):
        load_json(path)
    with pytest.raises(InputError, match="b.json: no such file"):
        load_json(tmp_path / "b.json")
    assert names(tmp_path) == ["a.json"]


def test_a_failed_write_keeps_the_older_file_and_leaves_no_part(tmp_path):
    path = tmp_path / "a.json"
    save_json({"a": 1}, path)
    with pytest.raises(TypeError):
        save_json({"a": object()}, path)
    with pytest.raises(TypeError):
        write_bytes(path, object())
    assert load_json(path) == {"a": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_write_that_breaks_off_keeps_the_older_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "older")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"newer")
    assert path.read_text() == "older"
    assert names(tmp_path) == ["a.txt"]


def test_a_write_that_fails_names_the_file_and_not_its_part(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a.txt", b"newer")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("data, lines", [
    (b"", []),
    (b"\n", [""]),
    (b"a\nb\n", ["a", "b"]),
    (b"a\r\nb", ["a", "b"]),
    (b"\xef\xbb\xbfa\n", ["a"]),
    (b"a\n\n", ["a", ""]),
    ("a\u2028b\n".encode(), ["a\u2028b"]),
])
def test_lines(tmp_path, data, lines):
    (tmp_path / "a.txt").write_bytes(data)
    assert read_lines(tmp_path / "a.txt") == lines


@pytest.mark.parametrize("data, line", [
    (b"\xe9", 1),
    (b"a\nb\xe9\n", 2),
    (b"\xef\xbb\xbfa\n\xe9\n", 2),
    (b"\xef\xbb\xbf\xe9\n", 1),
    (b"\xef\xbb\xbf\n\n\xe9\n", 3),
    (b"a\r\nb\r\n\xe9", 3),
])
def test_bytes_that_are_not_utf_8_are_named_by_their_line(tmp_path, data, line):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=f"a.txt: line {line}: not UTF-8"):
        read_lines(tmp_path / "a.txt")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="is a directory"):
        read_bytes(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="a/b: no such file"):
        read_bytes(tmp_path / "a" / "b")
    with pytest.raises(InputError, match="null"):
        read_bytes("a\0b")


def test_lines_of_json_are_appended(tmp_path):
    path = tmp_path / "log.jsonl"
    append_json_lines(path, [{"a": 1}])
    append_json_lines(path, [])
    append_json_lines(path, [{"a": 2}, {"a": 3}])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'


def test_of_two_downloads_at_once_the_first_stays(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        move_into_place(tmp_path / name, tmp_path / "placed")
    assert (tmp_path / "placed" / "file").read_text() == "first"
    with pytest.raises(OSError):
        move_into_place(tmp_path / "second", tmp_path / "nowhere" / "placed")


def test_a_scratch_folder_is_gone_afterwards(tmp_path):
    with scratch_folder(tmp_path / "into") as folder:
        assert os.path.dirname(folder) == str(tmp_path / "into")
    assert names(tmp_path / "into") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder that can be written to"):
        scratch_folder(tmp_path / "file")


def test_a_folder_is_made_with_those_above_it(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file.*; expected a folder that can be made"):
        make_folder(tmp_path / "file" / "c")


# ---- one process at a time in a folder

HOLD = """
import sys, time
from minipelt.files import alone_in
with alone_in(sys.argv[1]):
    print("inside", flush=True)
    time.sleep(60)
"""


def test_alone_again_after_the_block(tmp_path):
    for _ in range(2):
        with alone_in(tmp_path):
            pass
    assert names(tmp_path) == []


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
