"""Files, read with a clear error and written whole or not at all. This file needs no torch."""

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows; two processes in one folder are not told apart there
    fcntl = None

from minipelt.errors import InputError, check_utf8, describe_os_error

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else f"{path}: {error}"
        raise InputError(reason) from None


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, without a byte-order mark, line ends, or an empty last line. Raises InputError."""
    data = read_bytes(path).removeprefix(BYTE_ORDER_MARK)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line}: not UTF-8") from None
    if not text:
        return []
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def load_json(path: str | Path):
    """What a JSON file holds. Raises InputError if the file is absent or broken."""
    data = read_bytes(path)
    try:
        return parse_json(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise InputError(f"{path}: not valid JSON ({reason})") from None


def parse_json(text: str):
    """What JSON text says. Raises ValueError, or RecursionError where it is nested too deeply.

    JSON can hold half a surrogate pair, Python reads it, and no file or terminal takes it: it is refused here.
    """
    value = json.loads(text)
    if "\\ud" in text.lower():
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half a surrogate pair") from None
    return value


def save_json(value, path: str | Path) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def append_json_lines(path: str | Path, values: list) -> None:
    """Append one line of JSON for each value."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file beside its place and move it there when it is whole: a reader sees the older file or the new one."""
    part = Path(f"{path}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows
        if part.is_file():
            part.unlink()
        raise


def make_folder(folder: str | Path) -> None:
    """Make a folder, and those above it, unless it is there. Raises InputError if it cannot be made."""
    check_utf8("the folder", str(folder))
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{describe_os_error(error)}; expected a folder that can be made") from None


def move_into_place(part: Path, folder: Path) -> None:
    """Move a whole download to its place, unless another process that fetched the same was first."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def scratch_folder(parent: Path) -> tempfile.TemporaryDirectory:
    """A folder inside `parent`, made if need be, for a download that is not whole yet.

    Raises InputError if it cannot be made.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=parent, prefix=".fetching-")
    except OSError as error:
        raise InputError(f"{describe_os_error(error)}; expected a folder that can be written to") from None


@contextmanager
def alone_in(folder: str | Path):
    """While open, no other process can be alone in the same folder. Raises InputError if one is.

    The system takes the lock away when the process ends, however it ends: a killed one leaves nothing behind.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{folder}: another process is at work there; expected it to end first, or another folder"
            raise InputError(message) from None
        yield
    finally:
        os.close(descriptor)
