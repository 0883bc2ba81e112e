"""The live page (`python -m minipelt live`): a web server for this machine alone, from the standard library.

The page is live.html, one file. It asks for JSON:

    GET  /api/runs       the runs, each with its parts
    GET  /api/dev        what is known so far of each run's dev set
    POST /api/look       {"run", "texts", "forced", "removed", "attention"} -> gateview.look
    POST /api/prefix     {"run", "texts"} -> gateview.prefix_states
    POST /api/save       {"runs", "examples"} -> the page with these inside, as one HTML file that needs no server

Whatever is wrong with a request is answered with {"error": a sentence}; the server goes on. Other sites cannot use it
through the reader's browser: it checks the Host header (against names that were pointed at this machine), the Origin,
and that what is posted is JSON.
"""

import errno
import json
import math
import os
import socketserver
import sys
import threading
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from minipelt.errors import InputError
from minipelt.files import write_text
from minipelt.tools.liveruns import LiveRuns

PAGE = Path(__file__).parent / "live.html"
SAVED = '<script type="application/json" id="saved"></script>'  # where a saved page has its data
LARGEST_BODY = 1_000_000  # bytes
MOST_EXAMPLES = 12  # in a saved page
PORTS = 100  # how many are tried
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def live(args):
    """Serve the page until Ctrl-C, or write it into a file."""
    runs = LiveRuns(args.runs, args.device or "auto")
    if args.save is not None:
        write_text(args.save, saved_page(runs.keep(list(runs.runs), few_examples(runs))))
        print(f"{args.save}: the page with {', '.join(runs.runs)}, for any browser")
        return
    server = open_server(runs, args.port)
    if server.port != args.port:
        print(f"port {args.port} is taken: using {server.port}")
    print(f"{server.url}  (Ctrl-C ends it)", flush=True)
    survey = threading.Thread(target=runs.survey, daemon=True)
    survey.start()
    if not args.no_browser:
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    finally:
        runs.stop()
        server.server_close()
        survey.join(timeout=10)


def few_examples(runs):
    """Two right and two wrong answers of the first run on its dev set, as the page would have them chosen.

    Raises InputError if that dev set cannot be read: a page without examples shows nothing.
    """
    first = next(iter(runs.runs.values()))
    runs.survey_run(first.name)
    examples = first.dev["examples"]
    if not examples:
        raise InputError(f"{first.name}: no examples for a saved page: {first.dev['reason']}")
    right = [example for example in examples if example["right"]][:2]
    wrong = [example for example in examples if not example["right"]][:2]
    return [{"texts": example["texts"], "label": example["label"]} for example in right + wrong]


def saved_page(kept):
    """What `LiveRuns.keep` gave -> the page with it inside, as HTML."""
    data = json.dumps(kept, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace(SAVED, SAVED.replace("><", f">{data}<"))


# ---- the server


def open_server(runs, port):
    """A Server on the first free port from `port` on. Raises InputError if there is none."""
    for number in range(port, min(port + PORTS, 65_536)):
        try:
            return Server(runs, number)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise InputError(f"no free port from {port} to {port + PORTS - 1}; expected one of them, or another --port")


class Server(ThreadingHTTPServer):
    """A thread for each connection; LiveRuns lets one of them at the models at a time."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # on Windows this would let two servers share a port

    def __init__(self, runs, port):
        self.runs = runs
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self):
        """Bind, without the look-up of this machine's name that http.server does here."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def port(self):
        """The port that it has."""
        return self.server_port

    @property
    def url(self):
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def handle_error(self, request, client_address):
        """Nothing that goes wrong with one connection is worth a traceback: it may have been closed, or sent noise."""


class Refused(Exception):
    """A request that is not served: a status and a sentence."""

    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "minipelt", ""
    timeout = 30  # seconds without a byte, after which a connection is closed

    def do_GET(self):
        """The page, or JSON."""
        self.serve(self.get)

    def do_POST(self):
        """JSON for JSON."""
        self.serve(self.post)

    def serve(self, answer):
        """Check the request, answer it, and say in JSON what is wrong, if anything is."""
        try:
            self.check_sender()
            answer()
        except Refused as refused:
            self.refuse(refused.status, str(refused))
        except InputError as error:
            self.refuse(400, str(error), keep_open=True)
        except OSError:
            self.close_connection = True  # the reader has gone
        except Exception as error:  # a fault of this program: the page says so, and the server goes on
            self.refuse(500, f"this failed in the server: {type(error).__name__}: {error}")

    def check_sender(self):
        """Raise Refused unless the request comes from this page, or from a program on this machine."""
        port = self.server.port
        hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if port == 80:
            hosts |= {"127.0.0.1", "localhost"}
        found = self.headers.get_all("Host", [])
        if len(found) != 1 or found[0].strip().lower() not in hosts:
            raise Refused(403, f"wrong host; expected 127.0.0.1:{port}")
        origins = self.headers.get_all("Origin", [])
        if any(origin.strip().lower() not in {f"http://{host}" for host in hosts} for origin in origins):
            raise Refused(403, "this comes from another site; expected the page itself")
        is_page = self.path == "/"
        if not is_page and self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Refused(403, "this comes from another site; expected the page itself")

    def get(self):
        """Answer a GET."""
        runs = self.server.runs
        if self.path == "/":
            self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/api/runs":
            self.reply_json([opened.about() for opened in runs.runs.values()])
        elif self.path == "/api/dev":
            self.reply_json({name: opened.dev for name, opened in runs.runs.items()})
        else:
            raise Refused(404, "no such page; expected /, /api/runs or /api/dev")

    def post(self):
        """Answer a POST."""
        asked = self.read_json()
        runs = self.server.runs
        if self.path == "/api/look":
            forced, removed = asked.get("forced") or {}, asked.get("removed") or []
            check_type(forced, dict, "forced")
            check_names(removed, "removed")
            texts, attention = asked.get("texts"), asked.get("attention")
            self.reply_json(runs.look(asked.get("run"), texts, forced, removed, attention))
        elif self.path == "/api/prefix":
            self.reply_json(runs.prefix_states(asked.get("run"), asked.get("texts")))
        elif self.path == "/api/save":
            names, examples = asked.get("runs"), asked.get("examples")
            check_names(names, "runs")
            check_examples(examples)
            page = saved_page(runs.keep(names, examples))
            self.reply(200, page.encode("utf-8"), "text/html; charset=utf-8", "minipelt-live.html")
        else:
            raise Refused(404, "no such page; expected /api/look, /api/prefix or /api/save")

    def read_json(self):
        """The JSON object that was posted. Raises Refused if it is too long, broken, or something else."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "no Content-Length; expected the length of the JSON object")
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise Refused(413, f"{length[:20]} bytes; expected at most {LARGEST_BODY:,}")
        body = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "expected Content-Type: application/json")
        try:
            asked = json.loads(body.decode("utf-8"), parse_constant=no_number)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise InputError(f"not valid JSON ({reason})") from None
        if not isinstance(asked, dict):
            raise InputError("expected a JSON object")
        return asked

    # ---- answers

    def reply_json(self, value):
        """Send a value as JSON."""
        self.reply(200, json.dumps(value, allow_nan=False).encode("utf-8"), "application/json")

    def refuse(self, status, sentence, keep_open=False):
        """Send {"error": sentence}. What was not read of the request is in the way of the next: the connection ends."""
        self.close_connection = self.close_connection or not keep_open
        try:
            self.reply(status, json.dumps({"error": sentence}).encode("utf-8"), "application/json")
            if self.close_connection:
                self.drain()
        except OSError:
            self.close_connection = True

    def drain(self):
        """Read and drop what is still being sent, up to a limit, so that the answer reaches the sender."""
        self.wfile.flush()
        self.connection.settimeout(0.2)
        for _ in range(100):
            if not self.rfile.read1(LARGEST_BODY // 10):
                return

    def reply(self, status, body, kind, file_name=None):
        """Send bytes of a kind."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        if file_name:
            self.send_header("Content-Disposition", f'attachment; filename="{file_name}"')
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code, message=None, explain=None):
        """What http.server itself refuses (a method, a header line without end) is answered in JSON, too."""
        self.refuse(int(code), message or self.responses.get(code, ("refused",))[0].lower())

    def log_message(self, format, *args):
        """No line a request."""


# ---- what was asked


def no_number(name):
    """What Python's json would read as a number, though JSON has no such thing: NaN, Infinity."""
    raise ValueError(f"{name} is no number")


def check_type(value, kind, name):
    """Raise InputError unless a value has its type."""
    if not isinstance(value, kind):
        raise InputError(f"{name}: expected {'an object' if kind is dict else 'a list'}")


def check_names(value, name):
    """Raise InputError unless a value is a list of strings."""
    check_type(value, list, name)
    if not all(isinstance(item, str) for item in value):
        raise InputError(f"{name}: expected a list of names")


def check_examples(examples):
    """Raise InputError unless this is a list of a few examples, each with its texts."""
    check_type(examples, list, "examples")
    if not 1 <= len(examples) <= MOST_EXAMPLES:
        raise InputError(f"{len(examples)} examples; expected 1 to {MOST_EXAMPLES}")
    for example in examples:
        if not isinstance(example, dict) or set(example) != {"texts", "label"}:
            raise InputError('examples: expected a list of objects with "texts" and "label"')
        label = example["label"]
        is_score = isinstance(label, int | float) and math.isfinite(label)
        if not (label is None or isinstance(label, str) or is_score):
            raise InputError("label: expected a name, a number or null")
