"""tools/fetch.py: from a server on loopback that answers well, badly, or not at all; the zips; MRPC from its parts."""

import hashlib
import io
import os
import random
import socketserver
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import pytest

from minipelt import progress
from minipelt.errors import InputError
from minipelt.glue import TASKS, Example, read
from minipelt.tools import fetch as fetching
from minipelt.tools.fetch import ARCHIVES, MRPC_FILES, download, fetch, unpack

pytestmark = pytest.mark.slow  # whole runs and commands: together they take half a minute

NOWHERE = "http://127.0.0.1:1/"  # nothing listens there
SST2 = "/glue/data/SST-2.zip"


def answer(body, status="200 OK", length=None, headers=""):
    """The bytes of an HTTP answer. length: what it announces in place of the body's length."""
    announced = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Length: {announced}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


class Handler(socketserver.StreamRequestHandler):
    """Answers a request with the next of the answers for its path; the last one stays."""

    def handle(self):
        path = self.rfile.readline().decode("latin-1").split()[1]
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(path)
        answers = self.server.answers.get(path, [answer(b"", "404 Not Found")])
        self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])


@pytest.fixture
def server(monkeypatch):
    """A server on loopback: .answers {path: [bytes of an answer, ...]}, .asked [path, ...], .address."""
    monkeypatch.setenv("no_proxy", "*")
    web = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    web.answers, web.asked = {}, []
    web.address = f"http://127.0.0.1:{web.server_address[1]}/"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield web
    web.shutdown()
    web.server_close()
    thread.join()


def official_zip(compression=zipfile.ZIP_DEFLATED):
    """A zip in the shape of the official ones: the splits, and originals and extras that are not wanted."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as zipped:
        zipped.writestr("SST-2/train.tsv", "sentence\tlabel\nlovely\t1\n")
        zipped.writestr("SST-2/dev.tsv", "sentence\tlabel\ndreadful\t0\n")
        zipped.writestr("SST-2/test.tsv", "index\tsentence\n0\tso so\n")
        zipped.writestr("SST-2/original/dev.tsv", "something else")
        zipped.writestr("SST-2/dictionary.txt", "something else")
        zipped.writestr("../train.tsv", "something else")
        zipped.writestr("train.tsv", "something else")
    return memory.getvalue()


def sha256(content):
    """The hash as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def expect(monkeypatch):
    """expect(content): from now on, SST-2's official archive is one with this content."""

    def make(content):
        monkeypatch.setitem(ARCHIVES, "sst2", ("SST-2.zip", sha256(content)))
        return content

    return make


@pytest.fixture
def brief(server, tmp_path, expect):
    """brief(answer, ...) -> (the folder or an InputError, the waits) of fetching SST-2 from a server that answers so.

    In every case nothing half-fetched may be left.
    """

    def run(*answers):
        server.answers[SST2] = list(answers)
        waits = []
        try:
            found = fetch(TASKS["sst2"], tmp_path / "glue", server.address, waits.append)
        except InputError as error:
            found = error
            assert "\n" not in str(error)
        left = [path.name for path in (tmp_path / "glue").iterdir()]
        assert left == ([] if isinstance(found, InputError) else ["SST-2"])
        return found, waits

    return run


# ---- what goes well


def test_the_archives_are_the_official_ones():
    assert {*ARCHIVES, "mrpc"} == set(TASKS)
    digests = [digest for _, digest in ARCHIVES.values()] + list(MRPC_FILES.values())
    assert len(set(digests)) == len(digests) == 10
    assert all(len(digest) == 64 and int(digest, 16) for digest in digests)


def test_an_official_zip_is_fetched_and_placed(server, brief, expect, capsys):
    content = expect(official_zip())
    folder, waits = brief(answer(content))
    assert waits == []
    assert sorted(path.name for path in folder.iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
    assert read(TASKS["sst2"], "train", folder.parent) == [Example("lovely", None, 1)]
    assert read(TASKS["sst2"], "dev", folder.parent) == [Example("dreadful", None, 0)]
    assert read(TASKS["sst2"], "test", folder.parent) == [Example("so so")]
    assert not (folder.parent.parent / "train.tsv").exists()
    assert server.asked == [SST2]
    assert capsys.readouterr().err == ""  # short work, and no terminal


@pytest.mark.parametrize("announced", [True, False])
def test_a_log_of_a_download_has_lines_and_no_bar(brief, expect, capsys, monkeypatch, announced):
    monkeypatch.setattr(progress, "SECONDS", 0)  # a line a piece
    content = expect(official_zip())
    brief(answer(content) if announced else b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + content)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("SST-2.zip: 0.00") and line.count("SST-2.zip") == 1
    assert (" of 0.00" in line) == announced and "MB/s" in line


def test_a_quiet_download_shows_nothing_but_the_folder(server, expect, monkeypatch, tmp_path, command):
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(progress, "quiet", False)  # so that it is again, for the tests that follow
    server.answers[SST2] = [answer(expect(official_zip()))]
    monkeypatch.setattr(fetching, "fetch", partial(fetch, base_url=server.address))
    folder = tmp_path / "glue"
    assert command("fetch", "sst2", "--into", folder, "--quiet") == (0, f"sst2: {folder / 'SST-2'}\n", "")


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2" / "mine.txt").write_text("mine")
    assert fetch(TASKS["sst2"], tmp_path, NOWHERE) == tmp_path / "SST-2"  # nobody is asked
    assert [path.name for path in tmp_path.rglob("*")] == ["SST-2", "mine.txt"]


def test_a_larger_file_comes_in_pieces(server, tmp_path):
    content = random.Random(1).randbytes(300_000)
    server.answers["/file"] = [answer(content)]
    assert download(server.address + "file", tmp_path / "file", sha256(content)) is None
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("headers", ["Transfer-Encoding: chunked\r\n", ""])
def test_a_file_whose_length_is_not_announced(server, tmp_path, headers):
    content = b"some bytes " * 1000
    body = content
    if headers:
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (content[:77], content[77:])) + b"0\r\n\r\n"
    server.answers["/file"] = [f"HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n".encode() + body]
    download(server.address + "file", tmp_path / "file", sha256(content))
    assert (tmp_path / "file").read_bytes() == content


def test_a_redirect_is_followed(server, tmp_path):
    server.answers["/old"] = [answer(b"", "302 Found", headers="Location: /new\r\n")]
    server.answers["/new"] = [answer(b"content")]
    download(server.address + "old", tmp_path / "file", sha256(b"content"))
    assert server.asked == ["/old", "/new"]
    assert (tmp_path / "file").read_bytes() == b"content"


# ---- what another try may mend


def test_a_cut_body_is_tried_again_and_the_whole_one_counts(server, brief, expect, capsys):
    """What a cut try has written is gone: the next one begins at the first byte."""
    content = expect(official_zip())
    folder, waits = brief(answer(content[:50], length=len(content)), answer(content))
    assert (folder / "train.tsv").is_file()
    assert waits == [2]
    assert server.asked == [SST2, SST2]
    assert f"cut off after 50 of {len(content)} bytes; trying again in 2 s" in capsys.readouterr().err


def test_two_bad_tries_and_a_good_one(brief, expect):
    content = expect(official_zip())
    folder, waits = brief(answer(b"", "503 Busy"), b"not HTTP\r\n\r\n", answer(content))
    assert (folder / "dev.tsv").is_file()
    assert waits == [2, 8]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REDIRECT = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {}\r\n\r\n"


@pytest.mark.parametrize("bytes_sent, message", [
    (answer(b"abc", length=1000), r"cut off after 3 of 1,000 bytes"),
    (CHUNKED + b"64\r\nonly these", "cut off after"),
    (CHUNKED + b"zz\r\nonly these", "(cut off after|not a proper answer)"),
    (b"", "(?i)(closed connection|reset)"),
    (b"HTTP/1.1 what OK\r\n\r\n", "not a proper answer"),
    (b"\x00\xff\x00\xff\r\n\r\n", "not a proper answer"),
    (b"HTTP/1.1 " + b"2" * 70_000, "not a proper answer"),
    (b"HTTP/1.1 200 OK\r\n" + b"X-Header: 1\r\n" * 200 + b"\r\n", "not a proper answer"),
    (answer(b"", "500 Internal Server Error"), "HTTP 500"),
    (answer(b"", "429 Too Many Requests"), "HTTP 429"),
    (REDIRECT.format(NOWHERE).encode(), "(?i)refused"),
    (REDIRECT.format("http://[half/").encode(), "not a proper answer"),
    (REDIRECT.format("http://127.0.0.1:port/").encode(), "not a proper answer"),
])
def test_after_three_tries_it_is_one_line(server, brief, capsys, bytes_sent, message):
    error, waits = brief(bytes_sent)
    assert isinstance(error, InputError)
    assert error.args[0].startswith(f"{server.address}glue/data/SST-2.zip: download failed 3 times (")
    assert error.args[0].endswith("). Nothing was kept")
    assert "sha256" not in str(error)
    assert len(str(error)) < 400
    with pytest.raises(InputError, match=message):
        raise error
    assert waits == [2, 8]
    assert server.asked.count(SST2) == 3
    assert capsys.readouterr().err.count("trying again in") == 2


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    waits = []
    with pytest.raises(InputError, match="download failed 3 times .*[Rr]efused"):
        fetch(TASKS["rte"], tmp_path / "glue", NOWHERE, waits.append)
    assert waits == [2, 8]
    assert list((tmp_path / "glue").iterdir()) == []


# ---- what no other try mends


@pytest.mark.parametrize("bytes_sent, message", [
    (answer(b"", "404 Not Found"), "download failed .HTTP 404 Not Found"),
    (answer(b"", "403 Two\tWords"), "download failed .HTTP 403"),
    (answer(b"another file"), f"sha256 is {sha256(b'another file')}; expected [0-9a-f]{{64}}, the official file's"),
    (answer(b""), f"sha256 is {sha256(b'')}"),
    (REDIRECT.format("file:///etc/hostname").encode(), "download failed .HTTP 302"),
    (REDIRECT.format(SST2).encode(), "download failed .HTTP 302"),
])
def test_another_file_or_none_is_refused_at_once(brief, bytes_sent, message):
    error, waits = brief(bytes_sent)
    with pytest.raises(InputError, match=message):
        raise error
    assert waits == []


@pytest.mark.parametrize("length", ["many", "-5", "1.5", "9" * 5000, "٣", ""])
def test_a_length_that_is_no_number_is_as_none(brief, expect, length):
    """urllib reads to the end then; the hash tells whether all is there."""
    content = expect(official_zip())
    found, _ = brief(answer(content, length=length))
    if isinstance(found, InputError):  # one that Python's own http.client takes for a number
        assert length == "9" * 5000
        return
    assert (found / "train.tsv").is_file()


@pytest.mark.parametrize("announced", [10**12, None])
def test_what_is_too_large_is_refused(server, tmp_path, monkeypatch, announced):
    """By what it announces before a byte is written, or else as soon as too much has come."""
    monkeypatch.setattr(fetching, "LARGEST", 200_000)
    headers = "" if announced is None else f"Content-Length: {announced}\r\n"
    server.answers["/file"] = [f"HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n".encode() + bytes(900_000)]
    waits = []
    with pytest.raises(InputError, match="larger than 200,000 bytes; expected the official file"):
        download(server.address + "file", tmp_path / "file", "", waits.append)
    assert waits == []
    assert (tmp_path / "file").stat().st_size <= (200_000 if announced is None else 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_fault_of_the_download(server):
    server.answers["/file"] = [answer(b"content")]
    waits = []
    with pytest.raises(InputError, match="/dev/full: cannot be written .No space left on device.. Nothing was kept"):
        download(server.address + "file", Path("/dev/full"), sha256(b"content"), waits.append)
    assert waits == []


def test_a_folder_whose_name_is_too_long(tmp_path):
    with pytest.raises(InputError, match="name too long; expected a folder that can be written to"):
        fetch(TASKS["rte"], tmp_path / ("x" * 300), NOWHERE)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to(server, tmp_path):
    server.answers["/file"] = [answer(b"content")]
    with pytest.raises(InputError, match="none/file: cannot be written .No such file"):
        download(server.address + "file", tmp_path / "none" / "file", "", pytest.fail)
    (tmp_path / "SST-2").write_text("")
    with pytest.raises(InputError, match="SST-2: a file; expected no such name"):
        fetch(TASKS["sst2"], tmp_path, NOWHERE)
    with pytest.raises(InputError, match="expected a folder that can be written to"):
        fetch(TASKS["rte"], tmp_path / "SST-2", NOWHERE)


# ---- zips


def bad_zips():
    """{name: content} of files that are no archive of a task."""
    whole = official_zip()
    flipped = bytearray(official_zip(zipfile.ZIP_STORED))
    flipped[flipped.index(b"lovely")] ^= 1
    encrypted, unknown = bytearray(whole), bytearray(whole)
    for start, place, value in ((b"PK\x03\x04", 6, 1), (b"PK\x01\x02", 8, 1)):
        encrypted[encrypted.index(start) + place] |= value
    for start, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        unknown[unknown.index(start) + place] = 99
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as zipped:
        zipped.writestr("SST-2/dev.tsv", "sentence\tlabel\ndreadful\t0\n")
    return {
        "empty": b"",
        "a web page": b"<html>moved</html>",
        "cut": whole[:-30],
        "a flipped bit": bytes(flipped),
        "encrypted": bytes(encrypted),
        "an unknown compression": bytes(unknown),
        "without train.tsv": memory.getvalue(),
    }


@pytest.mark.parametrize("name", bad_zips())
def test_a_bad_zip_with_the_right_hash(brief, expect, name):
    error, waits = brief(answer(expect(bad_zips()[name])))
    with pytest.raises(InputError, match="SST-2.zip: (not a zip file that can be read|no train.tsv in it)"):
        raise error
    assert waits == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_mangled_zip_is_read_or_refused(tmp_path, compression):
    whole, generator = official_zip(compression), random.Random(1)
    archive, folder = tmp_path / "SST-2.zip", tmp_path / "SST-2"
    folder.mkdir()
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        archive.write_bytes(content)
        try:
            unpack(archive, folder)
        except InputError as error:
            assert "\n" not in str(error)
        assert {path.name for path in tmp_path.iterdir()} == {"SST-2.zip", "SST-2"}  # nothing escapes


# ---- MRPC, left-over folders, the command


def test_mrpc_is_built_from_its_parts(server, tmp_path, monkeypatch):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    contents = {
        "senteval/senteval_data/msr_paraphrase_train.txt": (
            header + '1\t10\t11\ta "\tb\n0\t20\t21\tc\td\n1\t30\t31\te\tf\n0\t21\t20\tg\th\n'
        ),
        "senteval/senteval_data/msr_paraphrase_test.txt": header + "1\t40\t41\tg\th\n0\t50\t51\ti\tj\n",
        "glue/data/mrpc_dev_ids.tsv": "20\t21\n",
    }
    assert contents.keys() == MRPC_FILES.keys()
    for name, text in contents.items():
        server.answers[f"/{name}"] = [answer(text.encode())]
        monkeypatch.setitem(MRPC_FILES, name, sha256(text.encode()))
    root = tmp_path / "glue"
    folder = fetch(TASKS["mrpc"], root, server.address, pytest.fail)
    assert read(TASKS["mrpc"], "train", root) == [Example('a "', "b", 1), Example("e", "f", 1), Example("g", "h", 0)]
    assert read(TASKS["mrpc"], "dev", root) == [Example("c", "d", 0)]
    assert read(TASKS["mrpc"], "test", root) == [Example("g", "h"), Example("i", "j")]
    assert sorted(path.name for path in folder.iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
    assert (folder / "test.tsv").read_bytes() == (
        "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t40\t41\tg\th\n1\t50\t51\ti\tj\n".encode()
    )
    assert (folder / "train.tsv").read_text("utf-8").startswith(header)
    assert [path.name for path in root.iterdir()] == ["MRPC"]


def test_one_missing_part_of_mrpc_leaves_nothing(server, tmp_path, monkeypatch):
    for name in list(MRPC_FILES)[:2]:
        server.answers[f"/{name}"] = [answer(b"x")]
        monkeypatch.setitem(MRPC_FILES, name, sha256(b"x"))
    with pytest.raises(InputError, match="mrpc_dev_ids.tsv: download failed .HTTP 404"):
        fetch(TASKS["mrpc"], tmp_path / "glue", server.address, pytest.fail)
    assert list((tmp_path / "glue").iterdir()) == []


def test_old_scratch_folders_go_and_young_ones_stay(tmp_path, monkeypatch):
    """A young one may belong to a download in another process."""
    monkeypatch.setenv("no_proxy", "*")
    for name, days in ((".fetching-old", 2), (".fetching-young", 0.5), ("RTE", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.zip").write_text("half")
        moment = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (moment, moment))
    with pytest.raises(InputError):
        fetch(TASKS["sst2"], tmp_path, NOWHERE, lambda seconds: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".fetching-young", "RTE"]
    assert (tmp_path / "RTE" / "half.zip").is_file()


def test_another_process_that_was_first_wins(server, tmp_path, expect):
    """Both have fetched the same; the folder that is there stays, the other one goes."""
    content = expect(official_zip())
    server.answers[SST2] = [answer(b"", "503 Busy"), answer(content)]

    def meanwhile(seconds):
        (tmp_path / "SST-2").mkdir()
        (tmp_path / "SST-2" / "first.txt").write_text("first")

    assert fetch(TASKS["sst2"], tmp_path, server.address, meanwhile) == tmp_path / "SST-2"
    assert [path.name for path in (tmp_path / "SST-2").iterdir()] == ["first.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["SST-2"]


def test_interrupting_leaves_nothing(server, tmp_path):
    server.answers[SST2] = [answer(b"", "503 Busy")]

    def interrupt(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(TASKS["sst2"], tmp_path, server.address, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, command):
    code, _, err = command("fetch", "wnli")
    assert code == 2
    assert "error: unknown task 'wnli'" in err
    (tmp_path / "file").write_text("")
    code, _, err = command("fetch", "sst2", "--into", tmp_path / "file")
    assert code == 2
    assert "expected a folder that can be written to" in err
    for task in TASKS.values():
        (tmp_path / task.folder).mkdir()
    code, out, err = command("fetch", "SST-2", "rte", "--into", tmp_path)
    assert (code, err) == (0, "")
    assert out == f"sst2: {tmp_path / 'SST-2'}\nrte: {tmp_path / 'RTE'}\n"
    code, out, _ = command("fetch", "all", "--into", tmp_path)
    assert (code, len(out.splitlines())) == (0, len(TASKS))
    assert command("fetch")[0] == 2


def test_interrupting_the_command_is_one_line(tmp_path, command, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "download", interrupt)
    code, _, err = command("fetch", "sst2", "--into", tmp_path)
    assert code == 130
    assert err.strip() == "interrupted: nothing half-fetched was kept"
    assert list(tmp_path.iterdir()) == []
