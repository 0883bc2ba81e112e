"""tools/live.py and liveruns.py: what the page is told, what is refused, and that nothing stops the server."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from helpers import ENVIRONMENT, TINY, tiny_bert, tiny_run, write_tiny_folder

from minipelt.bert import BertModel
from minipelt.errors import InputError
from minipelt.experiment import load_run, new_folder, prepare, run_experiment
from minipelt.gate import force_gates
from minipelt.settings import Run
from minipelt.tools.gateview import look
from minipelt.tools.live import PORTS, SAVED, few_examples, open_server, saved_page
from minipelt.tools.liveruns import LiveRuns, states_to_keep

pytestmark = pytest.mark.slow  # runs are trained for it
METHODS = {"apl": "sst2", "lora": "sst2", "bitfit": "sst2", "ap": "stsb"}
TEXT = "a fine film"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{method: a trained run on the tiny encoder}."""
    torch.manual_seed(1)
    parent = tmp_path_factory.mktemp("live")
    bert = write_tiny_folder(parent / "tiny-bert", tiny_bert(TINY))
    return {method: train(bert, parent / "runs", task, method) for method, task in METHODS.items()}


def train(bert, parent, task, method, **changes):
    """The folder of a trained run; a high learning rate moves what is trained far from its start."""
    run = tiny_run(bert, task, method, epochs=1, k=20, valid_rows=10, **changes)
    run = replace(run, recipe=replace(run.recipe, learning_rate=0.05))
    folder = new_folder(run, parent)
    run_experiment(prepare(run), folder)
    return folder


@pytest.fixture(scope="module")
def runs(folders):
    """All of them, opened, their dev sets read."""
    opened = LiveRuns(list(folders.values()), "cpu")
    opened.survey()
    return opened


@pytest.fixture(scope="module")
def server(runs):
    """A server of all runs, in a thread."""
    found = open_server(runs, 18_500)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


def ask(server, method, path, body=None, headers=None, raw=None):
    """(status, headers, body) of one request, with the Host that it should have unless `headers` say otherwise."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    sent = {"Content-Type": "application/json"} if body is not None or raw is not None else {}
    payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
    connection.request(method, path, payload, sent | (headers or {}))
    response = connection.getresponse()
    found = response.read()
    connection.close()
    return response.status, response.headers, found


def post(server, path, body):
    """(status, JSON) of a POST."""
    status, _, found = ask(server, "POST", path, body)
    return status, json.loads(found)


def send_bytes(server, data, read_all=True):
    """What comes back for bytes that need not be HTTP."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
            if not read_all:
                break
    return received


def still_answers(server):
    """Whether the server answers an ordinary question."""
    status, found = post(server, "/api/look", {"run": "sst2-lora-k20-seed1-x", "texts": [TEXT]})
    assert status == 400 and "unknown run" in found["error"]
    return ask(server, "GET", "/api/runs")[0] == 200


# ---- the runs


def test_runs_share_their_base_where_they_can(folders, runs):
    names = {method: folder.name for method, folder in folders.items()}
    boards = {method: runs.runs[name].board for method, name in names.items()}
    assert boards["apl"] is boards["lora"] is boards["ap"] is not None
    assert boards["bitfit"] is None and isinstance(runs.runs[names["bitfit"]].base, BertModel)
    assert list(runs.runs) == [folder.name for folder in folders.values()]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_among_others_answers_as_by_itself(folders, runs, method):
    run, _, model, tokenizer = load_run(folders[method], device="cpu")
    texts = [TEXT] if run.task == "sst2" else [TEXT, "a dull one"]
    base = runs.runs[folders[method].name].base
    forced = {"prefix": 0.0} if run.method.gated else {}
    alone = look(model, tokenizer, run, texts, forced, attention=(1, None), base=base)
    assert runs.look(folders[method].name, texts, forced, (), (1, None)) == alone
    assert runs.look(folders["apl"].name, [TEXT]) == runs.look(folders["apl"].name, [TEXT])


def test_a_single_run(folders):
    opened = LiveRuns([folders["lora"]], "cpu")
    assert opened.runs[folders["lora"].name].board is None
    assert opened.look(folders["lora"].name, [TEXT])["gates"] == {}


def test_runs_of_one_name_are_told_apart_by_their_paths(folders, tmp_path):
    twin = tmp_path / folders["lora"].name
    twin.symlink_to(folders["lora"])
    other = tmp_path / "other" / folders["lora"].name
    other.mkdir(parents=True)
    for path in folders["lora"].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    opened = LiveRuns([folders["lora"], other], "cpu")
    assert list(opened.runs) == [str(folders["lora"]), str(other)]
    with pytest.raises(InputError, match="named twice"):
        LiveRuns([folders["lora"], folders["lora"]], "cpu")


def test_the_dev_set(folders, runs):
    run, _, model, tokenizer = load_run(folders["apl"], device="cpu")
    opened = runs.runs[folders["apl"].name]
    assert opened.dev["state"] == "done" and opened.dev["done"] == opened.dev["of"] == 132
    examples = opened.dev["examples"]
    assert {"texts", "label", "answer", "right"} == set(examples[0])
    share = sum(example["right"] for example in examples) / len(examples)
    recorded = opened.results["test"]["accuracy"]
    assert share == pytest.approx(recorded, abs=1e-6)
    gate = opened.dev["gates"]["bert.encoder.layer.2.adapter.gate"]
    assert gate["mean"] == pytest.approx(opened.results["gates"]["adapter"][2], abs=1e-4)
    assert 0 < gate["deviation"] < 0.5


def test_the_dev_set_of_scores(folders, runs):
    dev = runs.runs[folders["ap"].name].dev
    right = [abs(each["answer"] - each["label"]) for each in dev["examples"] if each["right"]]
    wrong = [abs(each["answer"] - each["label"]) for each in dev["examples"] if not each["right"]]
    assert len(right) >= len(wrong) > 0 and max(right) <= min(wrong)


def test_a_run_in_bfloat16_leaves_the_others_their_shared_base(folders, tmp_path):
    rounded = train(Run.load(folders["apl"]).model, tmp_path, "sst2", "head", precision="bf16")
    opened = LiveRuns([rounded, folders["apl"], folders["lora"]], "cpu")
    alone, *others = (each.board for each in opened.runs.values())
    assert alone is None and others[0] is others[1] is not None
    assert opened.look(rounded.name, [TEXT])["distance"] == 0


@pytest.fixture
def without_dev(folders, tmp_path):
    """The run `moved`, whose dev set is not there."""
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in folders["lora"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    record = json.loads((folder / "run.json").read_text())
    record["run"]["glue"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_dev_set_that_is_not_there(without_dev):
    opened = LiveRuns([without_dev], "cpu")
    opened.survey()
    assert opened.runs["moved"].dev["state"] == "failed" and "no such file" in opened.runs["moved"].dev["reason"]
    assert opened.look("moved", [TEXT])["answer"]["label"] in ("negative", "positive")
    assert opened.runs["moved"].about()["start"] == {"texts": [""], "label": None}


# ---- the server's answers


def test_the_page_and_what_it_may_load(server):
    status, headers, body = ask(server, "GET", "/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    page = body.decode("utf-8")
    assert SAVED in page
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", page))
    assert addresses <= {"http://www.w3.org"}  # the name of SVG, which nobody loads


def test_the_runs(server, folders):
    found = json.loads(ask(server, "GET", "/api/runs")[2])
    first = found[0]
    assert [run["name"] for run in found] == [folder.name for folder in folders.values()]
    assert first["method"] == "apl" and first["columns"] == ["sentence"] and first["prefix"] == 3
    assert len(first["parts"]) == 12 and {part["kind"] for part in first["parts"]} == {"gated"}
    assert first["start"]["label"] in ("negative", "positive")
    dev = json.loads(ask(server, "GET", "/api/dev")[2])
    assert dev[first["name"]]["state"] == "done"


def test_a_question_and_a_forced_gate(server, folders):
    name = folders["apl"].name
    run, _, model, tokenizer = load_run(folders["apl"], device="cpu")
    status, seen = post(server, "/api/look", {"run": name, "texts": [TEXT], "forced": {"adapter": 0.25},
                                              "removed": ["prefix"], "attention": [0, 1]})
    assert status == 200
    assert seen == look(model, tokenizer, run, [TEXT], {"adapter": 0.25}, ["prefix"], [0, 1])
    status, seen = post(server, "/api/prefix", {"run": name, "texts": [TEXT]})
    assert status == 200 and seen[-1]["distance"] == 0


def test_a_kept_page(server, folders, runs):
    name = folders["apl"].name
    text = "</script><b>a fine film"
    body = {"runs": [name], "examples": [{"texts": [text], "label": "positive"}]}
    status, headers, page = ask(server, "POST", "/api/save", body)
    assert status == 200 and "attachment" in headers["Content-Disposition"]
    page = page.decode("utf-8")
    assert text not in page and SAVED not in page
    kept = json.loads(re.search(r'<script type="application/json" id="saved">(.*?)</script>', page, re.DOTALL)[1])
    assert kept["examples"] == body["examples"] and [run["about"]["name"] for run in kept["runs"]] == [name]
    views = kept["runs"][0]["looks"][0]["views"]
    for state in views[:40]:
        alone = runs.look(name, [text], state["forced"], state["removed"])
        assert state["view"]["answer"] == alone["answer"]
    assert views[0]["forced"] == {} and "percent" in views[0]["view"]["attention"]


def test_what_a_kept_page_can_turn(runs, folders):
    parts = runs.runs[folders["apl"].name].parts
    states = [(forced, removed) for forced, removed, _ in states_to_keep(parts)]
    gates = {f"{part['name']}.gate": part for part in parts}
    assert states[0] == ({}, [])
    for name, part in gates.items():
        for value in (0, 1):
            assert ({name: value}, []) in states
        column = {gate: 0.5 for gate, other in gates.items() if other["submodule"] == part["submodule"]}
        assert (column, []) in states
        assert ({}, [part["name"]]) in states
    assert (dict.fromkeys(gates, 0), []) in states
    keys = [json.dumps([sorted(forced.items()), sorted(removed)]) for forced, removed in states]
    assert len(set(keys)) == len(keys)
    assert states_to_keep([]) == [({}, [], True)]


def test_a_page_written_from_the_command_line(runs):
    examples = few_examples(runs)
    assert 2 <= len(examples) <= 4 and set(examples[0]) == {"texts", "label"}
    page = saved_page({"runs": [], "examples": examples})
    assert SAVED not in page and page.startswith("<!doctype html>")


# ---- the server's refusals


def test_wrong_hosts_and_other_sites_are_refused(server):
    port = server.port
    for host in ("example.org", f"example.org:{port}", "127.0.0.1:1", "", f"127.0.0.1:{port}.example.org", "localhost"):
        status, _, body = ask(server, "GET", "/", headers={"Host": host})
        assert status == 403 and "wrong host" in json.loads(body)["error"], host
    assert ask(server, "GET", "/", headers={"Host": f"localhost:{port}"})[0] == 200
    body = {"run": "x", "texts": [TEXT]}
    for origin in ("http://example.org", "null", f"https://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"):
        status, _, found = ask(server, "POST", "/api/look", body, {"Origin": origin})
        assert status == 403 and "another site" in json.loads(found)["error"], origin
    for origin in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
        assert ask(server, "POST", "/api/look", body, {"Origin": origin})[0] == 400  # unknown run, and no more
    assert ask(server, "GET", "/api/runs", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(server, "GET", "/api/runs", headers={"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert ask(server, "GET", "/", headers={"Sec-Fetch-Site": "cross-site"})[0] == 200  # a link to the page
    assert b" 403 " in send_bytes(server, b"GET / HTTP/1.1\r\n\r\n")  # no Host
    assert b" 403 " in send_bytes(server, f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: x\r\n\r\n".encode())
    assert still_answers(server)


def test_only_this_machine_is_listened_to(server):
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("body, message", [
    ({}, "unknown run 'None'"),
    ({"run": 3, "texts": [TEXT]}, "unknown run '3'"),
    ({"run": ["x"], "texts": [TEXT]}, "unknown run"),
    ({"run": "x" * 9_000, "texts": [TEXT]}, "unknown run 'xxx"),
    ({"run": "APL"}, "expected a list of one string"),
    ({"run": "APL", "texts": [""]}, "sentence is empty"),
    ({"run": "APL", "texts": ["a" * 100_000]}, "100,000 characters; expected at most 10,000"),
    ({"run": "APL", "texts": ["a", "b"]}, "takes one text"),
    ({"run": "APL", "texts": [TEXT], "forced": [1]}, "forced: expected an object"),
    ({"run": "APL", "texts": [TEXT], "forced": {"x": 0}}, "no gate 'x' to force"),
    ({"run": "APL", "texts": [TEXT], "forced": {"prefix": 2}}, "expected a number from 0 to 1"),
    ({"run": "APL", "texts": [TEXT], "forced": {"prefix": {}}}, "expected a number from 0 to 1"),
    ({"run": "APL", "texts": [TEXT], "removed": "prefix"}, "removed: expected a list"),
    ({"run": "APL", "texts": [TEXT], "removed": [1]}, "removed: expected a list of names"),
    ({"run": "APL", "texts": [TEXT], "removed": ["x"]}, "no part 'x' to take out"),
    ({"run": "APL", "texts": [TEXT], "removed": [""]}, "no part '' to take out"),
    ({"run": "APL", "texts": [TEXT], "attention": [99, 0]}, "layer is 99"),
    ({"run": "APL", "texts": [TEXT], "attention": {}}, "expected a layer and a head"),
    ([1, 2], "expected a JSON object"),
])
def test_wrong_questions_get_a_sentence(server, folders, body, message):
    if isinstance(body, dict) and body.get("run") == "APL":
        body = body | {"run": folders["apl"].name}
    status, found = post(server, "/api/look", body)
    assert status == 400 and message in found["error"]
    assert still_answers(server)


@pytest.mark.parametrize("raw", [
    b"", b"{", b"\xff\xfe", b"{'run': 1}", b"[" * 50_000, b'{"run": NaN}', b"1" * 10_000,
    b'{"texts": ["\\ud800"], "run": 1}',
])
def test_broken_json(server, raw):
    status, _, body = ask(server, "POST", "/api/look", raw=raw)
    assert status == 400 and json.loads(body)["error"]
    assert still_answers(server)


@pytest.mark.parametrize("examples, message", [
    (None, "examples: expected a list"), ([], "0 examples"), ([{"texts": [TEXT], "label": None}] * 13, "13 examples"),
    ([1], "list of objects"), ([{"texts": [TEXT]}], "list of objects"),
    ([{"texts": [TEXT], "label": {}}], "label: expected a name"), ([{"texts": [""], "label": None}], "empty"),
])
def test_wrong_examples_to_keep(server, folders, examples, message):
    status, found = post(server, "/api/save", {"runs": [folders["lora"].name], "examples": examples})
    assert status == 400 and message in found["error"]


def test_a_page_with_an_unknown_run_is_no_fault_of_the_server(server, folders, runs, monkeypatch):
    monkeypatch.setattr(runs, "survey_run", lambda name: pytest.fail("the names are checked before any work"))
    examples = [{"texts": [TEXT], "label": None}]
    status, found = post(server, "/api/save", {"runs": [folders["lora"].name, "nope"], "examples": examples})
    assert status == 400 and found["error"].startswith("unknown run 'nope'; expected one of ")
    status, found = post(server, "/api/save", {"runs": [], "examples": examples})
    assert status == 400 and found["error"] == "no run to keep; expected at least one"


def test_what_is_too_large_or_not_json_or_not_there(server):
    path = "/api/look"
    status, _, body = ask(server, "POST", path, raw=b'{"texts": ["' + b"a" * 2_000_000 + b'"]}')
    assert status == 413 and "at most 1,000,000" in json.loads(body)["error"]
    assert ask(server, "POST", path, {"run": 1}, {"Content-Type": "text/plain"})[0] == 415
    assert ask(server, "POST", "/api/none", {})[0] == 404
    for place in ("/none", "/api", "/api/", "/../live.py", "/?x", "/%00"):
        status, _, body = ask(server, "GET", place)
        assert status == 404, place
        assert json.loads(body)["error"] == "no such page; expected /, /api/runs or /api/dev"
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    for lines in (b"", b"Content-Length: x\r\n", b"Content-Length: -5\r\n", b"Transfer-Encoding: chunked\r\n"):
        assert b" 411 " in send_bytes(server, b"POST /api/look HTTP/1.1\r\n" + host + lines + b"\r\n")
    assert b" 413 " in send_bytes(server, b"POST /api/look HTTP/1.1\r\n" + host + b"Content-Length: 9999999999\r\n\r\n")
    assert still_answers(server)


@pytest.mark.parametrize("data", [
    b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
])
def test_noise_does_not_stop_it(server, data):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            received = connection.recv(65_536)
        except ConnectionResetError:
            received = b""
    assert b"Traceback" not in received
    assert still_answers(server)


def test_a_reader_that_leaves_early(server, folders):
    body = json.dumps({"run": folders["apl"].name, "texts": [TEXT]}).encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(
                f"POST /api/look HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
    assert still_answers(server)


def test_a_fault_of_the_program_is_told_and_does_not_stop_it(server, folders, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(server.runs, "look", fail)
    status, found = post(server, "/api/look", {"run": folders["apl"].name, "texts": [TEXT]})
    assert status == 500 and "ZeroDivisionError" in found["error"]
    monkeypatch.undo()
    assert still_answers(server)


def test_many_at_once_get_their_own_answers(server, folders):
    run, _, model, tokenizer = load_run(folders["apl"], device="cpu")
    values = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    expected = []
    for value in values:
        with force_gates(model, {"all": value}):
            expected.append(look(model, tokenizer, run, [TEXT])["answer"])
    found = [None] * len(values)

    def question(i):
        body = {"run": folders["apl"].name, "texts": [TEXT], "forced": {"all": values[i]}}
        found[i] = post(server, "/api/look", body)[1]["answer"]

    threads = [threading.Thread(target=question, args=(i,)) for i in range(len(values))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_connection_can_ask_again(server, folders):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for texts in ([TEXT], [""], [TEXT]):  # a wrong one in between
        body = json.dumps({"run": folders["lora"].name, "texts": texts})
        connection.request("POST", "/api/look", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == (200 if texts[0] else 400) and json.loads(response.read())
    connection.close()


# ---- ports, and the command


def test_a_taken_port_is_replaced_by_the_next_free_one(server, runs):
    other = open_server(runs, server.port)
    assert server.port < other.port < server.port + PORTS
    other.server_close()


def test_no_port_is_free(runs, monkeypatch):
    monkeypatch.setattr("minipelt.tools.live.PORTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"no free port from {port}"):
            open_server(runs, port)


def live(*arguments, **options):
    """The command in a process of its own, which takes Ctrl-C even where the tests run in the background."""
    command = [sys.executable, "-m", "minipelt", "live", *map(str, arguments)]
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, **restore, **options
    )


def test_the_command_serves_until_ctrl_c(folders):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = live(folders["lora"], "--port", port, "--no-browser", "--device", "cpu")
        try:
            first = process.stdout.readline()
            assert first.startswith(f"port {port} is taken: using ")
            url = process.stdout.readline().split()[0]
            found = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", url)[1])
            connection = http.client.HTTPConnection("127.0.0.1", found, timeout=20)
            connection.request("GET", "/api/runs")
            assert json.loads(connection.getresponse().read())[0]["method"] == "lora"
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and err.strip() == "stopped" and out == ""


def test_the_command_writes_a_page(folders, tmp_path):
    process = live(folders["lora"], "--save", tmp_path / "page.html", "--device", "cpu")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "page.html: the page with" in out
    assert '"about"' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_without_examples_is_not_written(without_dev, tmp_path):
    process = live(without_dev, "--save", tmp_path / "page.html", "--device", "cpu")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("error: moved: no examples for a saved page: ") and "no such file" in err
    assert err.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_what_the_command_refuses(folders, tmp_path):
    for arguments, message in [
        ((tmp_path / "nothing", "--no-browser"), "no run.json in it"),
        ((folders["lora"], "--port", "0"), "--port is 0; expected 1 to 65535"),
        ((folders["lora"], "--save", "page.txt"), "expected a name that ends in .html"),
        ((folders["lora"], folders["lora"]), "named twice"),
    ]:
        process = live(*arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and message in err and "Traceback" not in err
