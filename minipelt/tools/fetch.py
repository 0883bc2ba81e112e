"""The official GLUE files, from where GLUE keeps them: checked by their sha256, and placed when all are whole.

    python -m minipelt fetch sst2 rte        brings glue/SST-2 and glue/RTE
"""

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from minipelt.errors import InputError
from minipelt.files import move_into_place, read_lines, scratch_folder
from minipelt.glue import TASKS, get_task
from minipelt.progress import progress_bar

BASE_URL = "https://dl.fbaipublicfiles.com/"
ARCHIVES = {  # task: (GLUE's zip file, its sha256)
    "cola": ("CoLA.zip", "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff"),
    "sst2": ("SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa"),
    "stsb": ("STS-B.zip", "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85"),
    "qqp": ("QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0"),
    "mnli": ("MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633"),
    "qnli": ("QNLIv2.zip", "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5"),
    "rte": ("RTE.zip", "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee"),
}
# MRPC has no official archive: two text files, and a list of the pairs that GLUE holds out as its dev set.
MRPC_FILES = {
    "senteval/senteval_data/msr_paraphrase_train.txt": (
        "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89"
    ),
    "senteval/senteval_data/msr_paraphrase_test.txt": (
        "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784"
    ),
    "glue/data/mrpc_dev_ids.tsv": "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
}

TRIES = 3
WAITS = (2, 8)  # seconds before the second try and the third
TIMEOUT = 60  # seconds without a byte
LARGEST = 10**9  # bytes; the largest official file, MNLI's, has 313 million
CHUNK = 1 << 16  # bytes
LEFTOVER_AGE = 24 * 3600  # seconds after which a scratch folder belongs to no download that is still alive


class Broken(Exception):
    """A download that failed in a way that another try may mend. The message says how."""


def fetch_tasks(args):
    """The command: fetch the tasks that `args` names, one after the other."""
    names = TASKS if args.tasks == ["all"] else args.tasks
    for task in [get_task(name) for name in names]:
        print(f"{task.name}: {fetch(task, args.into)}")


def fetch(task, root="glue", base_url=BASE_URL, sleep=time.sleep):
    """Download a task's official files and place them as `root`/<task folder> when all are whole. Returns that folder.

    A folder that is already there is left alone. sleep(seconds) waits between tries. Raises InputError if a download
    fails, is not the official file, or cannot be written.
    """
    folder = Path(root) / task.folder
    if os.path.isdir(folder):  # False, where Path.is_dir fails for a name that is too long
        return folder
    if os.path.exists(folder):
        raise InputError(f"{folder}: a file; expected no such name, or the folder with the task's TSVs")
    remove_leftovers(Path(root))
    with scratch_folder(Path(root)) as scratch:
        scratch, part = Path(scratch), Path(scratch) / task.folder
        part.mkdir()
        if task.name in ARCHIVES:
            name, sha256 = ARCHIVES[task.name]
            download(f"{base_url}glue/data/{name}", scratch / name, sha256, sleep)
            unpack(scratch / name, part)
        else:
            for name, sha256 in MRPC_FILES.items():
                download(base_url + name, scratch / Path(name).name, sha256, sleep)
            build_mrpc(scratch, part)
        move_into_place(part, folder)
    return folder


def remove_leftovers(root):
    """Remove the scratch folders that fetches left behind which were killed more than a day ago."""
    for leftover in root.glob(".fetching-*") if os.path.isdir(root) else ():
        if time.time() - leftover.lstat().st_mtime > LEFTOVER_AGE:
            shutil.rmtree(leftover, ignore_errors=True)


# ---- one file


def download(url, path, sha256, sleep=time.sleep):
    """Download `url` to `path` with a progress bar; try again, after a while, what another try may mend.

    Raises InputError if it cannot be had, or is another file than expected.
    """
    for number in range(1, TRIES + 1):
        try:
            found = download_once(url, path)
            break
        except Broken as error:
            if number == TRIES:
                raise InputError(f"{url}: download failed {TRIES} times ({error}). Nothing was kept") from None
            wait = WAITS[number - 1]
            print(f"{url}: {error}; trying again in {wait} s", file=sys.stderr)
            sleep(wait)
    if found != sha256:
        raise InputError(f"{url}: sha256 is {found}; expected {sha256}, the official file's. Nothing was kept")


def download_once(url, path):
    """One try. Returns the file's sha256. Raises Broken, or InputError where another try is of no use."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open_sink(path) as file:
            return copy(response, file, url)
    except InputError:
        raise
    except urllib.error.HTTPError as error:
        reason = f"HTTP {error.code} {one_line(error.reason)}"
        if error.code >= 500 or error.code in (408, 429):
            raise Broken(reason) from None
        raise InputError(f"{url}: download failed ({reason})") from None
    except http.client.IncompleteRead as error:
        raise Broken(f"cut off after {len(error.partial):,} bytes of its last piece") from None
    except (http.client.HTTPException, ValueError) as error:  # what is no HTTP, and addresses that are none
        raise Broken(f"not a proper answer: {one_line(error)}") from None
    except OSError as error:  # a URLError wraps the reason
        raise Broken(one_line(getattr(error, "reason", error))) from None


def copy(response, file, url):
    """Copy a response's bytes to a file, with a progress bar. Returns their sha256.

    Raises Broken if some are missing, InputError if they are too many or cannot be written.
    """
    size = content_length(response)
    digest, done, name = hashlib.sha256(), 0, Path(file.name).name
    with progress_bar(size, unit="B", name=name, unit_scale=True, desc=name) as bar:
        while chunk := response.read(CHUNK):
            done += len(chunk)
            if max(done, size or 0) > LARGEST:
                raise InputError(f"{url}: larger than {LARGEST:,} bytes; expected the official file")
            write(file, chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if size is not None and done < size:
        raise Broken(f"cut off after {done:,} of {size:,} bytes")
    return digest.hexdigest()


def content_length(response):
    """How many bytes a response announces, or None if it does not say so, or not in a number."""
    announced = response.headers.get("Content-Length") or ""
    return int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else None


def open_sink(path):
    """A file to write to. Raises InputError if there can be none."""
    try:
        return open(path, "wb", buffering=0)  # what is written is written: closing the file cannot fail any more
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}). Nothing was kept") from None


def write(file, chunk):
    """Write bytes. Raises InputError if there is no room for them: that is no fault of the download."""
    try:
        while chunk:
            chunk = chunk[file.write(chunk) :]
    except OSError as error:
        raise InputError(f"{file.name}: cannot be written ({error.strerror}). Nothing was kept") from None


def one_line(error):
    """An error's message in one line that is not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


# ---- from the downloads to GLUE's files


def unpack(archive, folder):
    """Take the train, dev and test TSVs out of an official zip file, which also holds originals and extras.

    Raises InputError if it is no zip file, or holds no such files.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.namelist():
                inner = Path(member)
                is_split = inner.suffix == ".tsv" and inner.stem.split("_")[0] in ("train", "dev", "test")
                if is_split and len(inner.parts) == 2 and inner.parts[0] not in ("..", "/"):
                    with zipped.open(member) as source, open_sink(folder / inner.name) as sink:
                        while chunk := source.read(CHUNK):
                            write(sink, chunk)
    except InputError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds, its own and those of its decoders
        raise InputError(f"{archive.name}: not a zip file that can be read ({one_line(error)})") from None
    if not (folder / "train.tsv").is_file():
        raise InputError(f"{archive.name}: no train.tsv in it; expected the official file")


def build_mrpc(source, folder):
    """Write GLUE's MRPC files: the pairs of mrpc_dev_ids.tsv are dev, the rest of the training text train."""
    dev_pairs = {tuple(line.split("\t")) for line in read_lines(source / "mrpc_dev_ids.tsv")}
    header, *rows = read_lines(source / "msr_paraphrase_train.txt")
    splits = {"dev": [header], "train": [header]}
    for row in rows:
        pair = tuple(row.split("\t")[1:3])
        splits["dev" if pair in dev_pairs else "train"].append(row)
    header, *rows = read_lines(source / "msr_paraphrase_test.txt")
    splits["test"] = ["\t".join(["index", *header.split("\t")[1:]])]
    for index, row in enumerate(rows):
        splits["test"].append("\t".join([str(index), *row.split("\t")[1:]]))
    for split, lines in splits.items():
        text = "\ufeff" + "\n".join(lines) + "\n"  # a byte-order mark, as the official files have it
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8", newline="\n")
