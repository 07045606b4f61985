"""A model's name becomes a folder: its snapshot in the Hugging Face cache, downloaded first where it is not there yet.

The cache is asked first, and a complete copy in it (transformers' own counts) is used without any network. The client
is huggingface_hub, whose settings hold: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, proxies.
"""

import errno
import hashlib
import os
import queue
import re
import shutil
import threading
import time
import warnings
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors

from ..errors import CheckpointError, HubError
from .config import read_config
from .tensors import shard_names, weight_files
from .vocabulary import FILES as VOCABULARY_FILES
from .vocabulary import has_vocabulary

PINNED = {"openai-community/gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e"}
REPOSITORIES = {  # the short names that everybody writes, which transformers' cache may hold as well
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
PATIENCE = 5  # seconds for the Hub's first answer; huggingface_hub alone waits 23 s or more, and prints each try


def snapshot(name, revision=None):
    """Find a model in the cache, or download it: (folder, commit). All its weights are there, or HubError is raised."""
    repo = repository(name)
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", str(revision)) or ".." in str(revision)):
        raise CheckpointError(
            f"{revision!r:.120} is no name for a revision: give a branch, a tag or a full commit hash"
        )
    for wanted in [revision] if revision else [PINNED.get(repo), "main"]:
        for folder in cached(repo, wanted, "config.json"):
            if is_complete(folder):
                return folder, folder.name
    folder = fetch(name, repo, revision or PINNED.get(repo, "main"), download_model)
    return folder, folder.name


def vocabulary(name, folder):
    """Find, or download, the vocabulary that belongs to the snapshot in `folder`: a folder with the files there are."""
    repo, commit = repository(name), folder.name
    for place in [folder, *cached(repo, commit, "vocab.json"), *cached(repo, commit, "tokenizer.json")]:
        if has_vocabulary(place) and settings_are_known(repo, commit):
            return place
    try:
        return fetch(name, repo, commit, download_vocabulary) or folder
    except HubError as error:
        missing = "tokenizer_config.json" if has_vocabulary(folder) else "vocab.json, merges.txt"
        raise HubError(f"the vocabulary of {name} ({missing}) is not in the cache: {error}") from None


def settings_are_known(repo, commit):
    """Whether tokenizer_config.json, which can change every id, is in the cache or known not to be on the Hub. GPT-2's
    own repositories have nothing in it that does."""
    answers = [
        huggingface_hub.try_to_load_from_cache(each, "tokenizer_config.json", revision=commit)
        for each in known_as(repo)
    ]
    return repo in REPOSITORIES.values() or any(answer is not None for answer in answers)


def repository(name):
    """The full name of a Hub repository; CheckpointError for what can be none."""
    repo = REPOSITORIES.get(name, name)
    part = r"\w([\w.-]*\w)?"  # huggingface_hub's own rule, utils/_validators.py
    if (
        not re.fullmatch(f"({part}/)?{part}", repo, re.ASCII)
        or ".." in repo
        or "--" in repo
        or repo.endswith(".git")
        or len(repo) > 96
    ):
        raise CheckpointError(
            f"there is no folder {name!r:.400}, nor can a model on the Hub have that name: give an existing folder, or a "
            "name such as 'gpt2'"
        )
    return repo


# The cache


def cached(repo, revision, file):
    """The cached snapshots of a repository, under its full and its short name, that hold `file`."""
    found = [
        huggingface_hub.try_to_load_from_cache(each, file, revision=revision) for each in known_as(repo) if revision
    ]
    return [Path(path).parent for path in found if isinstance(path, str)]


def known_as(repo):
    return [repo] + [short for short, full in REPOSITORIES.items() if full == repo]


def is_complete(folder):
    try:
        return bool(weight_files(folder))
    except CheckpointError:
        return False


def discard_damaged(folder):
    """Remove the files of a snapshot whose bytes are not those that the Hub stated; return their names."""
    return [path.name for path in sorted(Path(folder).iterdir()) if path.is_file() and discard_if_damaged(path)]


def discard_if_damaged(path):
    """Remove one file of a snapshot if its bytes are not those that the Hub stated; return whether it was so.

    The cache keeps a file under the Hub's checksum of it, with a link in the snapshot: SHA-256 for large files, git's
    SHA-1 for the others. Where there is neither (a mirror's own, or a file system without links), nothing is known.
    """
    stated = Path(os.readlink(path)).name if path.is_symlink() else ""
    with open(path, "rb") as file:
        if re.fullmatch("[0-9a-f]{64}", stated):
            digest = hashlib.sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
        elif re.fullmatch("[0-9a-f]{40}", stated):
            data = file.read()
            digest = hashlib.sha1(b"blob %d\0" % len(data) + data)
        else:
            return False
    if digest.hexdigest() == stated:
        return False
    blob = path.parent / os.readlink(path)
    path.unlink()
    blob.unlink(missing_ok=True)
    return True


# The download


def fetch(name, repo, revision, download):
    """Return the folder that download(repo, revision) makes; HubError says in one sentence why there is none."""
    try:
        knock(repo, revision)
        with warnings.catch_warnings():
            # huggingface_hub only warns when the disk is too small, and then fills it.
            warnings.filterwarnings("error", message="Not enough free disk space")
            return download(repo, revision)
    except (CheckpointError, HubError):
        raise
    except Exception as error:  # the client, its HTTP library and its xet transport all have classes of their own
        raise HubError(explain(error, name, repo, revision)) from None


def knock(repo, revision):
    """Ask the Hub about one small file first, so that an unreachable Hub is noticed within PATIENCE seconds.

    In a thread: the client's timeouts hold for each of the host's addresses in turn, and for its name's look-up not
    at all. A server's error may pass, so that is asked again while there is time.
    """
    if constants.HF_HUB_OFFLINE:
        raise errors.OfflineModeIsEnabled
    url = huggingface_hub.hf_hub_url(repo, "config.json", revision=revision)
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(huggingface_hub.get_hf_file_metadata(url, timeout=PATIENCE))
        except Exception as error:
            answers.put(error)

    start = time.monotonic()
    while True:
        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = answers.get(timeout=PATIENCE - (time.monotonic() - start))
        except queue.Empty:
            raise ConnectionError(f"no answer within {PATIENCE} seconds") from None
        if status(answer) < 500 or time.monotonic() - start > PATIENCE / 2:
            break
        time.sleep(1)
    if isinstance(answer, errors.HfHubHTTPError):
        raise answer
    if isinstance(answer, Exception):
        raise ConnectionError(one_line(answer))
    if answer.commit_hash is None:
        raise ConnectionError("what answers there is not the Hub: it names no commit")


def download_model(repo, revision):
    """Download a repository's config, vocabulary and weights into the cache; return the snapshot's folder."""
    folder = download(repo, revision, "config.json").parent
    read_config(folder)  # refuses another architecture before its weights are fetched
    commit = folder.name  # the other files from the same commit, even if the branch moves meanwhile
    download_vocabulary(repo, commit)
    if not download_if_there(repo, commit, "model.safetensors"):
        index = download_if_there(repo, commit, "model.safetensors.index.json")
        if not index:
            raise CheckpointError(
                f"{repo} has no model.safetensors on the Hub; a pytorch_model.bin is a pickle, which can run code and "
                "is never loaded"
            )
        for shard in shard_names(index):
            download(repo, commit, shard)
    return folder


def download_vocabulary(repo, commit):
    """Download the files of a vocabulary, as far as the repository has them; return their folder, or None."""
    found = [download_if_there(repo, commit, file) for file in VOCABULARY_FILES]
    return next((path.parent for path in found if path), None)


def download_if_there(repo, commit, file):
    """Download one file; None if the repository has no file of that name."""
    try:
        return download(repo, commit, file)
    except errors.LocalEntryNotFoundError:  # despite its name and its base class: the Hub gave no answer
        raise
    except errors.EntryNotFoundError:
        return None


def download(repo, revision, file):
    """Download one file into the cache, with the library's progress bar, and compare its bytes with the checksum."""
    path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    if discard_if_damaged(path):
        raise HubError(
            f"{file} of {repo} came with other bytes than the Hub's checksum promises, and was removed: run again; if "
            "it stays so, a proxy in between alters downloads"
        )
    return path


# What went wrong


def explain(error, name, repo, revision):
    """Say in one sentence why a model could not be fetched, and what to do."""
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__  # huggingface_hub's "check your connection", whatever the reason
    cache, hub = constants.HF_HUB_CACHE, constants.ENDPOINT
    ways = (
        f"connect to the network (or set a proxy, or HF_ENDPOINT to a mirror), copy a cache that holds {repo} to "
        f"{cache} (or set HF_HUB_CACHE to it), or give a folder with config.json and model.safetensors, not a name"
    )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set and {cache} holds no complete copy of {name}: unset it and {ways}"
    if isinstance(error, ConnectionError):
        return f"{hub} cannot be reached ({one_line(error)}) and {cache} holds no complete copy of {name}: {ways}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is open only to those who accept its terms: do so at {hub}/{repo}, then run 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: give a branch, a tag or a full commit hash listed at {hub}/{repo}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no config.json on the Hub at revision {revision}, so it is not a model that can be loaded"
    if isinstance(error, errors.RepositoryNotFoundError) or status(error) in (401, 403, 404):
        return (
            f"there is no folder {name!r} here and {hub} shows no model {repo!r} (it answers {status(error)}): check "
            "the spelling, or run 'hf auth login' if it is private"
        )
    if status(error) == 429:
        wait = error.response.headers.get("Retry-After", "")
        wait = f"{wait} seconds" if wait.isdigit() else "a few minutes"
        return f"{hub} has had too many requests from here (429): wait {wait}, or run 'hf auth login' to be given more"
    if status(error):
        return f"{hub} answers {status(error)} when asked for {repo}: try again later; what has arrived whole is kept"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or re.search("disk space|No space", str(error)):
        free = shutil.disk_usage(next(place for place in Path(cache, ".").absolute().parents if place.exists())).free
        return (
            f"the disk of {cache} is too full for {repo} ({free / 1e6:.0f} MB free; {one_line(error)}): make room, or "
            "set HF_HUB_CACHE to a larger disk"
        )
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"the cache cannot be written ({one_line(error)}): set HF_HUB_CACHE to a folder that can"
    return f"the download of {repo} broke off ({one_line(error)}): run again; what has arrived whole is kept"


def status(answer):
    """The HTTP status of an error, or 0."""
    return getattr(getattr(answer, "response", None), "status_code", 0)


def one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
