"""The Hugging Face cache on the disk, as huggingface_hub and transformers keep it (HF_HUB_CACHE):

models--OWNER--NAME/blobs/CHECKSUM             the bytes of one file
models--OWNER--NAME/snapshots/COMMIT/FILE      a link to ../../blobs/CHECKSUM
models--OWNER--NAME/refs/BRANCH                the commit that a branch pointed to
models--OWNER--NAME/.no_exist/COMMIT/FILE      empty: the commit has no such file
"""

import hashlib
import os
import re
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from ..errors import CheckpointError, VocabularyError


def cached(names, revision, file):
    """The cached snapshots of a repository, under each of its names, that hold `file`."""
    found = [huggingface_hub.try_to_load_from_cache(name, file, revision=revision) for name in names if revision]
    return [Path(path).parent for path in found if isinstance(path, str)]


def repository_folder(repo):
    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def blob_path(repo, checksum):
    return repository_folder(repo) / "blobs" / checksum


def snapshot_path(repo, commit, file):
    return repository_folder(repo) / "snapshots" / commit / file


def places(repo, commit, file, checksum):
    """Where a file may lie already; as a blob, if another revision has the same file."""
    return snapshot_path(repo, commit, file), blob_path(repo, checksum)


def add(repo, revision, commit, file, checksum):
    """Make a blob the file of a snapshot, and the snapshot what `revision` points to; return the file's path."""
    path = snapshot_path(repo, commit, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with beside(path) as temporary:
            try:
                temporary.symlink_to(os.path.join("..", "..", "blobs", checksum))
            except OSError:  # Windows, unless its user may make links
                os.replace(blob_path(repo, checksum), temporary)
            os.replace(temporary, path)
    if revision != commit:
        ref = repository_folder(repo) / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        with beside(ref) as temporary:
            temporary.write_text(commit)
            os.replace(temporary, ref)
    return path


def add_missing(repo, commit, file):
    """Note that a commit has no file of that name, where huggingface_hub.try_to_load_from_cache looks for it."""
    note = repository_folder(repo) / ".no_exist" / commit / file
    with suppress(OSError):  # a cache that cannot be written holds no note, and is asked for none
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


@contextmanager
def beside(path):
    """Give a new name beside `path`; nothing of that name is left when the block ends."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.incomplete")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


# Damage


@contextmanager
def healing(folder, suffixes=None):
    """Where a snapshot's files turn out to be wrong in the block, remove those that are damaged, and say so."""
    try:
        yield
    except (CheckpointError, VocabularyError) as error:
        if damaged := discard_damaged(folder, suffixes):
            raise type(error)(f"{error}; removed {', '.join(damaged)}: run again to download it anew") from None
        raise


def discard_damaged(folder, suffixes=None):
    """Remove the files of a snapshot whose bytes are not those that the Hub stated; return their names.

    suffixes limits which files are looked at, e.g. (".json", ".txt").
    """
    paths = [path for path in sorted(Path(folder).iterdir()) if path.is_file()]
    return [path.name for path in paths if (suffixes is None or path.suffix in suffixes) and discard_if_damaged(path)]


def discard_if_damaged(path):
    """Remove one file of a snapshot if its bytes are not those that the Hub stated; return whether it was so.

    Only a link to the repository's own blobs is known to be the Hub's: nothing else is removed, or looked at.
    """
    if not path.is_symlink():
        return False
    blob = path.parent / os.readlink(path)
    blobs = path.parent.parent.parent / "blobs"
    if blob.parent.resolve() != blobs.resolve() or not is_damaged(blob, blob.name):
        return False
    path.unlink()
    blob.unlink(missing_ok=True)
    return True


def is_damaged(path, checksum):
    """Whether a file has not the Hub's checksum: SHA-256 for a large file, git's SHA-1 for the others.

    A mirror may name its files otherwise, and then nothing is known: False.
    """
    if re.fullmatch("[0-9a-f]{64}", checksum):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", checksum):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    else:
        return False
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() != checksum
