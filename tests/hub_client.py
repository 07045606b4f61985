"""Processes that load a model from a Hub, as the tests of it start them, and the models that they load.

Each client is a process of its own, as huggingface_hub reads its settings when it is imported.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from checkpoints import SMALL, byte_vocabulary, config_fields, make_arrays, safetensors_bytes, stored
from hub_server import etag

from minigpt2.checkpoint.hub import PINNED

GPT2 = "openai-community/gpt2"
COMMIT = PINNED[GPT2]
OTHER = "0123456789abcdef0123456789abcdef01234567"
CONFIG = replace(SMALL, n_vocab=257)  # as many as byte_vocabulary has
TEXT = "naïve?<|endoftext|>"


def model_files(config=CONFIG, seed=0, vocabulary=True):
    """The files of a repository, and the digest of its weights."""
    arrays = make_arrays(config, seed)
    files = {
        "config.json": json.dumps(config_fields(config)).encode(),
        "model.safetensors": safetensors_bytes({name: stored(array) for name, array in arrays.items()}, start_mod_8=3),
    }
    if vocabulary:
        files["vocab.json"], files["merges.txt"] = (text.encode() for text in byte_vocabulary())
    return files, hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()


FILES, DIGEST = model_files()
BIG_FILES, BIG_DIGEST = model_files(replace(CONFIG, n_vocab=600_000))  # 34 MB: the client keeps pieces of 10 MB

# No requests but those for the model: huggingface_hub otherwise looks up names of coding agents to report.
QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1"}

ROOT = Path(__file__).resolve().parent.parent

CLIENT = """
import hashlib, json, sys, time
from minigpt2 import GPT2
from minigpt2.checkpoint import download
vars(download).update(json.loads(sys.argv[4]))  # waits that a test can wait for
from minigpt2.checkpoint.weights import flatten
start = time.monotonic()
try:
    model = GPT2.from_pretrained(sys.argv[1], revision=sys.argv[2] or None)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in flatten(model.weights).values())).hexdigest()
    text = model.decode(model.encode(sys.argv[3])) if sys.argv[3] else ""
except (OSError, ValueError) as error:
    print(time.monotonic() - start)
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps([digest, model.revision, text]))
"""


class Client:
    """A process that loads a model; its results once it has ended."""

    def __init__(self, url, home, name="gpt2", revision="", text="", waits=None, cwd=ROOT, **settings):
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING"))}
        kept |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost"}
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT, name, revision, text, json.dumps(waits or {})],
            env=kept | QUIET | {"PYTHONPATH": str(ROOT)} | settings,  # this checkout's, whatever is installed
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self):
        self.out, self.err = self.process.communicate(timeout=60)
        return self

    def loaded(self, digest=DIGEST, commit=COMMIT, text=""):
        """Check that the model came, whole."""
        self.end()
        assert self.process.returncode == 0, self.err
        assert json.loads(self.out) == [digest, commit, text]
        return self

    def refused(self, kind="HubError"):
        """The one sentence on stderr that ended the process."""
        self.end()
        assert self.process.returncode == 1, (self.out, self.err)
        self.seconds = float(self.out)
        last = self.err.strip().split("\n")[-1]
        assert re.match(f"{kind or '(Vocabulary|Checkpoint)Error'}: ", last) and "Traceback" not in self.err, self.err
        assert not list(self.home.rglob("*.incomplete"))
        return last

    def refused_quietly(self, kind="HubError"):
        """The same, with nothing else on stderr."""
        sentence = self.refused(kind)
        assert self.err.strip() == sentence
        return sentence


def fill_cache(home, name, commit, files, main=True):
    """A cache as transformers leaves it behind: links in a snapshot, to blobs named by checksum."""
    repo = home / "hub" / f"models--{name.replace('/', '--')}"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    if main:
        (repo / "refs/main").write_text(commit)
    for file, data in files.items():
        (repo / "blobs" / etag(data)).write_bytes(data)
        (repo / "snapshots" / commit / file).symlink_to(f"../../blobs/{etag(data)}")


REFUSING = "http://127.0.0.1:9"  # nobody listens on the discard port
