"""A model's name becomes a folder: its snapshot in the Hugging Face cache, downloaded first where it is not there yet.

The cache is asked first, and a complete copy in it (transformers' own counts) is used without any network. The client
is huggingface_hub, whose settings hold: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, proxies.
"""

import difflib
import errno
import math
import os
import re
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import utils as errors

from ..errors import CheckpointError, HubError
from ..shapes import expected_shapes
from .cache import add_missing, cached, healing, repository_folder
from .config import read_config
from .download import download, one_line, status
from .header import LONGEST_HEADER
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


def snapshot(name, revision=None):
    """Find a model in the cache, or download it: (folder, commit). All its weights are there, or HubError is raised."""
    repo = repository(name)
    if revision is not None and (not re.fullmatch(r"\w[\w./-]*", str(revision)) or ".." in str(revision)):
        raise CheckpointError(
            f"{revision!r:.120} is no name for a revision: give a branch, a tag or a full commit hash"
        )
    for wanted in [revision] if revision else [PINNED.get(repo), "main"]:
        for folder in cached(known_as(repo), wanted, "config.json"):
            if is_complete(folder):
                return folder, folder.name
    folder = fetch(name, repo, revision or PINNED.get(repo, "main"), download_model)
    return folder, folder.name


def vocabulary(name, folder):
    """Find, or download, the vocabulary that belongs to the snapshot in `folder`: a folder with the files there are."""
    repo, commit = repository(name), folder.name
    places = [cached(known_as(repo), commit, file) for file in ("vocab.json", "tokenizer.json")]
    for place in [folder, *places[0], *places[1]]:
        if has_vocabulary(place) and settings_are_known(repo, commit):
            return place
    try:
        return fetch(name, repo, commit, partial(download_vocabulary, is_first=True)) or folder
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


def known_as(repo):
    """The names under which a repository may be cached: in full, and short."""
    return [repo] + [short for short, full in REPOSITORIES.items() if full == repo]


def is_complete(folder):
    try:
        return bool(weight_files(folder))
    except CheckpointError:
        return False


# The download


def fetch(name, repo, revision, download):
    """Return the folder that download(repo, revision) makes; HubError says in one sentence why there is none."""
    check_token()
    try:
        return download(repo, revision)
    except (CheckpointError, HubError):
        raise
    except Exception as error:  # the client and its HTTP library have classes of their own
        raise HubError(explain(error, name, repo, revision)) from None


def check_token():
    """Refuse a token that cannot be sent; no message shows it."""
    token = huggingface_hub.get_token()
    if token and not re.fullmatch("[!-~]+", token):
        raise HubError(
            "the Hugging Face token (HF_TOKEN, or the one that 'hf auth login' stored) holds a character that no token "
            "has, such as a space or a letter beyond ASCII: copy it again, or unset HF_TOKEN, as gpt2 needs none"
        )


def download_model(repo, revision):
    """Download a repository's config, vocabulary and weights into the cache; return the snapshot's folder."""
    folder = download(repo, revision, "config.json", is_first=True).parent
    commit = folder.name  # the other files from the same commit, even if the branch moves meanwhile
    with healing(folder):
        config = read_config(folder)  # refuses another architecture before its weights are fetched
        download_vocabulary(repo, commit)
        most = largest(config)
        if not download_if_there(repo, commit, "model.safetensors", most=most):
            index = download_if_there(repo, commit, "model.safetensors.index.json")
            if not index:
                raise CheckpointError(
                    f"{repo} has no model.safetensors on the Hub; a pytorch_model.bin is a pickle, which can run code "
                    "and is never loaded"
                )
            for shard in shard_names(index):
                most -= download(repo, commit, shard, most).stat().st_size
    return folder


def largest(config):
    """The most bytes that the weights of a model can take: each twice, as wte and lm_head are, in float64, and masks."""
    numbers = sum(math.prod(shape) for shape in expected_shapes(config).values())
    return LONGEST_HEADER + 2 * 8 * numbers + 8 * config.n_layer * (config.n_ctx**2 + 1)


def download_vocabulary(repo, commit, is_first=False):
    """Download the files of a vocabulary, as far as the repository has them; return their folder, or None."""
    found = [download_if_there(repo, commit, file, is_first=is_first) for file in VOCABULARY_FILES]
    return next((path.parent for path in found if path), None)


def download_if_there(repo, commit, file, **limits):
    """Download one file; None, which the cache notes, if the repository has no file of that name."""
    try:
        return download(repo, commit, file, **limits)
    except errors.EntryNotFoundError:
        add_missing(repo, commit, file)
        return None


# What went wrong


def explain(error, name, repo, revision):
    """Say in one sentence why a model could not be fetched, and what to do."""
    cache, hub = constants.HF_HUB_CACHE, constants.ENDPOINT
    ways = (
        f"connect to the network (or set a proxy, or HF_ENDPOINT to a mirror), copy a cache that holds {repo} to "
        f"{cache} (or set HF_HUB_CACHE to it), give a folder with config.json and model.safetensors, not a name, or "
        'take "bundled", the small model that is part of minigpt2'
    )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set and {held(name, repo)}{meant(name)}: unset it and {ways}"
    if isinstance(error, ConnectionError):
        return f"{hub} cannot be reached ({one_line(error)}) and {held(name, repo)}{meant(name)}: {ways}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is open only to those who accept its terms: do so at {hub}/{repo}, then run 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: give a branch, a tag or a full commit hash listed at {hub}/{repo}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{repo} has no config.json on the Hub at revision {revision}, so it is not a model that can be loaded"
    if isinstance(error, errors.HfHubHTTPError) and status(error) in (401, 403, 404):
        return (
            f"there is no folder {name!r} here and {hub} shows no model {repo!r} (it answers {status(error)}){meant(name)}: check the "
            "spelling, or run 'hf auth login' if it is private"
        )
    if status(error) == 429:
        wait = error.response.headers.get("Retry-After", "")
        wait = f"{wait} seconds" if re.fullmatch("[0-9]{1,5}", wait) else "a few minutes"
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


def held(name, repo):
    """What the cache has of a model that is not complete in it."""
    for folder in map(repository_folder, known_as(repo)):
        if any(folder.glob("snapshots/*/pytorch_model*.bin")):
            return (
                f"{constants.HF_HUB_CACHE} holds {name} only as pytorch_model.bin, a pickle, which can run code and is "
                "never loaded (save_pretrained of transformers writes a folder with model.safetensors)"
            )
    folder = f" (nor is the folder {name!r} here a model's, without a config.json)" if os.path.isdir(name) else ""
    return f"{constants.HF_HUB_CACHE} holds no complete copy of {name}{folder}"


def meant(name):
    """The name that was probably meant: GPT-2 small is "gpt2"."""
    if name in REPOSITORIES or name in REPOSITORIES.values():
        return ""
    plain = name.lower().rsplit("/")[-1].replace("_", "-").replace("gpt-2", "gpt2").removesuffix("-small")
    close = difflib.get_close_matches(plain, REPOSITORIES, 1, 0.8)
    return f" (did you mean {close[0]!r}?)" if close else ""
