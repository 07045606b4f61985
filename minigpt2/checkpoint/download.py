"""One file from the Hugging Face Hub into the cache: what the server states is checked before a byte of it is used,
every wait has an end, and what arrives is limited on its way.

The client is huggingface_hub's: its settings, token, proxies and session. The transfer itself is written out here, as
the library's own names files after whatever the server says, and waits as long as the server wants.
"""

import errno
import os
import queue
import re
import shutil
import threading
import time
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    tqdm,
)

from ..errors import HubError
from ..terminal import brief
from . import cache

PATIENCE = 5  # seconds for the Hub's first answer, so that one which cannot be reached is noticed soon
PATIENCE_LATER = 30  # for its answers about further files: it is there, but may be busy
PATIENCE_PIECE = 60  # for each PIECE of a transfer: a line of 1 kB/s is slow, and still a line
PIECE = 1 << 16
TRIES = 5  # in a row that bring no piece
MOST = 1 << 24  # bytes of any file but the weights


def download(repo, revision, file, most=MOST, is_first=False):
    """Download one file of at most `most` bytes into the cache, with a progress bar; return its path.

    is_first says that the Hub was not reached before. Raises HubError, ConnectionError, OSError, or an error of
    huggingface_hub's or its HTTP library's.
    """
    path = cache.snapshot_path(repo, revision, file)
    if path.is_file():  # only if `revision` is a commit, whose files never change
        return path
    stated = metadata(repo, revision, file, PATIENCE if is_first else PATIENCE_LATER)
    if not any(place.is_file() for place in cache.places(repo, stated.commit, file, stated.checksum)):
        fetch_blob(repo, file, stated, most)
    return cache.add(repo, revision, stated.commit, file, stated.checksum)


class Stated(NamedTuple):
    """What the Hub states about a file."""

    commit: str | None
    checksum: str | None
    url: str  # of its bytes; another host's for a large file
    size: int | None


def metadata(repo, revision, file, patience):
    """Ask the Hub about a file, and check the form of what it states.

    A server's error may pass, so it is asked again while there is time.
    """
    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled
    url = huggingface_hub.hf_hub_url(repo, file, revision=revision)
    start = time.monotonic()
    while True:
        try:
            left = patience - (time.monotonic() - start)
            stated = watched(lambda tick: ask(url, patience), left)
            break
        except HfHubHTTPError as error:
            if status(error) < 500 or time.monotonic() - start > patience / 2:
                raise
            time.sleep(1)
        except Exception as error:  # the client's HTTP libraries have classes of their own
            raise ConnectionError(one_line(error)) from None
    check_stated(stated, revision, file)
    return stated


def ask(url, patience):
    """Stated, from the answer to one HEAD request, followed within its host: renamed models are redirected there.

    Once and without a retry, unlike huggingface_hub.get_hf_file_metadata in most versions.
    """
    session, headers = get_session(), build_hf_headers() | {"Accept-Encoding": "identity"}
    stay = {"follow_redirects" if is_httpx(session) else "allow_redirects": False}
    for _ in range(20):
        answer = session.request("HEAD", url, headers=headers, timeout=patience, **stay)
        hf_raise_for_status(answer)
        is_redirect = 300 <= answer.status_code < 400
        target = urljoin(url, answer.headers.get("Location", "")) if is_redirect else url
        if not is_redirect or "X-Linked-Etag" in answer.headers or origin(target) != origin(url):
            break
        url = target
    else:
        raise ConnectionError("it redirects without end")
    size = answer.headers.get("X-Linked-Size") or answer.headers.get("Content-Length" if target == url else "", "")
    checksum = answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag") or ""
    return Stated(
        commit=answer.headers.get("X-Repo-Commit"),
        checksum=checksum.removeprefix("W/").strip('"'),
        url=target,
        size=int(size) if re.fullmatch("[0-9]{1,18}", size) else None,
    )


def origin(url):
    return urlsplit(url)[:2]  # scheme and host with its port


def is_httpx(session):
    """Whether huggingface_hub's session is httpx's, as from 1.0 on, or requests', where `stream` is a setting."""
    return callable(session.stream)


def check_stated(stated, revision, file):
    """Refuse a commit and a checksum that could not be names in the cache: huggingface_hub makes paths of them."""
    if stated.commit is None:
        raise ConnectionError("what answers there is not the Hub: it names no commit")
    asked = re.fullmatch("[0-9a-f]{40}", revision)
    if not re.fullmatch("[0-9a-f]{40}", stated.commit) or asked and stated.commit != revision:
        named = f"the commit {brief(stated.commit)} for {file} at revision {revision}"
    elif not re.fullmatch(r"\w[\w.+=-]{0,199}", stated.checksum, re.ASCII):
        named = f"the checksum {brief(stated.checksum)} for {file}"
    else:
        return
    raise HubError(
        f"{constants.ENDPOINT} names {named}, as the Hub never does, so nothing is downloaded from there: "
        "set HF_ENDPOINT to a server that you trust, or unset it"
    )


def fetch_blob(repo, file, stated, most):
    """Transfer a file and make it a blob of the cache once it is whole and its checksum is right."""
    blob = cache.blob_path(repo, stated.checksum)
    blob.parent.mkdir(parents=True, exist_ok=True)
    check_size(stated.size, most, repo, file, blob.parent)
    with cache.beside(blob) as temporary:
        with open(temporary, "xb") as out:
            try:
                watched(lambda tick: transfer(repo, file, stated, out, most, tick), PATIENCE_PIECE)
            except TimeoutError:
                raise HubError(
                    f"{urlsplit(stated.url).netloc} sent less than {PIECE // 1024} KiB of {file} of {repo} in "
                    f"{PATIENCE_PIECE} seconds, so the download was given up: try again later"
                ) from None
        if cache.is_damaged(temporary, stated.checksum):
            raise HubError(
                f"{file} of {repo} came with other bytes than the Hub's checksum promises, and was removed: run again; "
                "if it stays so, a proxy in between alters downloads"
            )
        os.replace(temporary, blob)


def check_size(size, most, repo, file, folder):
    """Refuse a file that is too large for what it is, or for the disk."""
    if size is not None and size > most:
        raise HubError(f"{file} of {repo} has {size:,} bytes, more than the {most:,} that such a file can need")
    if size is not None and size > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, f"{file} has {size / 1e6:.0f} MB")


def transfer(repo, file, stated, out, most, tick):
    """Write a file's bytes to `out`, asking for the rest where the connection breaks off; tick() with each piece."""
    tries, arrived = TRIES, 0
    disabled = False if os.environ.get("TQDM_POSITION") == "-1" else None  # None: where stderr is no terminal
    with tqdm(total=stated.size, desc=file, unit="B", unit_scale=True, disable=disabled) as bar:
        while True:
            try:
                with opened(stated.url, arrived) as (code, pieces):
                    if arrived and code != 206:  # the server does not know ranges, and begins anew
                        bar.update(-arrived)
                        out.seek(arrived := 0)
                        out.truncate()
                    for piece in pieces:
                        tick()
                        arrived, tries = arrived + len(piece), TRIES
                        if arrived > (most if stated.size is None else stated.size):
                            raise HubError(
                                f"{file} of {repo} came with more bytes than the Hub stated, or than such a file can "
                                f"need, and was given up after {arrived:,}"
                            )
                        out.write(piece)
                        bar.update(len(piece))
                break
            except Exception as error:
                ours = isinstance(error, (HubError, Refused, Abandoned)) or getattr(error, "errno", None) is not None
                tries -= 1
                if ours or not tries:
                    raise
                time.sleep(1)
                tick()
    if stated.size is not None and arrived != stated.size:
        raise HubError(
            f"{file} of {repo} came with {arrived:,} bytes instead of {stated.size:,}, and was removed: run again"
        )


class Refused(Exception):
    """The server's answer to a transfer, where it is an error; with `response`, as huggingface_hub's errors have it."""

    def __init__(self, response):
        super().__init__(f"status {response.status_code}")
        self.response = response


@contextmanager
def opened(url, start):
    """Ask for a file's bytes from `start` on: (status, iterator of pieces). The token goes to the Hub's own host only."""
    is_hub = origin(url) == origin(constants.ENDPOINT)
    headers = build_hf_headers(token=None if is_hub else False) | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    session, timeout = get_session(), constants.HF_HUB_DOWNLOAD_TIMEOUT
    if is_httpx(session):
        answer = session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True)
    else:
        answer = session.get(url, headers=headers, timeout=timeout, stream=True)
    with answer as response:
        if response.status_code >= 400:
            raise Refused(response)
        if response.headers.get("Content-Encoding", "identity") not in ("identity", "gzip"):
            raise HubError(f"{urlsplit(url).netloc} sends files in an encoding that was not asked for")
        pieces = response.iter_bytes if is_httpx(session) else response.iter_content
        yield response.status_code, pieces(PIECE)


# Waiting


class Abandoned(Exception):
    """Raised in a thread whose result nobody waits for any longer."""


def watched(work, patience):
    """Return work(tick), done in a thread; TimeoutError once `patience` seconds pass without a tick() in it.

    In a thread: the client's timeouts hold for each single wait, not for all of an answer that comes byte by byte, for
    each of a host's addresses in turn, and for the look-up of its name not at all.
    """
    events, abandoned = queue.SimpleQueue(), threading.Event()

    def tick():
        if abandoned.is_set():
            raise Abandoned
        events.put(None)

    def run():
        try:
            events.put((work(tick), None))
        except BaseException as error:
            events.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        while (event := events.get(timeout=max(patience, 0))) is None:
            pass
    except queue.Empty:
        raise TimeoutError(f"no answer within {patience:.0f} seconds") from None
    finally:
        abandoned.set()
    result, error = event
    if error is not None:
        raise error
    return result


def status(error):
    """The HTTP status of an error, or 0."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def one_line(error):
    return brief(error) or type(error).__name__
