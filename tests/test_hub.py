"""The real huggingface_hub client against a Hub on the loopback: the right model or one clear sentence, a cache that
the next call can use, and never half a model. Each client is a process of its own, as the library reads its settings
when it is imported."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from checkpoints import config_fields, make_arrays, stored, write_folder
from hub_client import (
    BIG_DIGEST,
    BIG_FILES,
    COMMIT,
    CONFIG,
    FILES,
    GPT2,
    OTHER,
    REFUSING,
    TEXT,
    Client,
    fill_cache,
    model_files,
)
from hub_server import Repo, etag, serving

from minigpt2.checkpoint.download import PATIENCE
from minigpt2.checkpoint.weights import CheckpointError, load


def test_first_download_then_no_network(tmp_path):
    with serving({GPT2: Repo(COMMIT, FILES)}) as hub:
        # TQDM_POSITION=-1 asks for progress bars although stderr is no terminal here.
        first = Client(hub.url, tmp_path, text=TEXT, TQDM_POSITION="-1").loaded(text=TEXT)
        assert "model.safetensors: 100%" in first.err
        assert sorted(set(hub.paths())) == ["config.json", "merges.txt", "model.safetensors", "vocab.json"]
        assert len(hub.paths()) == 4
        hub.requests.clear()
        Client(hub.url, tmp_path, text=TEXT).loaded(text=TEXT)
        assert hub.requests == []
    for name, revision in (("gpt2", ""), (GPT2, ""), (GPT2, COMMIT)):
        assert Client(hub.url, tmp_path, name, revision, text=TEXT).loaded(text=TEXT).err == ""
    Client(hub.url, tmp_path, HF_HUB_OFFLINE="1").loaded()


def test_the_pinned_commit_and_other_revisions(tmp_path):
    other_files, other_digest = model_files(seed=1)
    with serving({GPT2: Repo(OTHER, other_files, ("main", "v1"))}) as hub:
        assert f"no revision '{COMMIT}'" in Client(hub.url, tmp_path).refused_quietly()
        Client(hub.url, tmp_path, revision="v1").loaded(other_digest, OTHER)
        assert "no revision 'v2'" in Client(hub.url, tmp_path, revision="v2").refused_quietly()
        assert "no name for a revision" in Client(hub.url, tmp_path, revision="../v2").refused("CheckpointError")


def test_short_names_and_renamed_repositories(tmp_path):
    repos = {name: Repo(OTHER, FILES) for name in ("openai-community/gpt2-medium", "distilbert/distilgpt2", "new/name")}
    with serving(repos, renamed={"old/name": "new/name"}) as hub:
        clients = [Client(hub.url, tmp_path / n, n) for n in ("gpt2-medium", "distilgpt2", "new/name", "old/name")]
        for client in clients:
            client.loaded(commit=OTHER)
    Client(hub.url, tmp_path / "gpt2-medium", "gpt2-medium").loaded(commit=OTHER)


def test_shards(tmp_path):
    arrays = make_arrays(CONFIG)
    folder = write_folder(tmp_path / "made", {n: stored(a) for n, a in arrays.items()}, config_fields(CONFIG), shards=3)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving({"a/b": Repo(OTHER, files)}) as hub:
        Client(hub.url, tmp_path / "home", "a/b").loaded(commit=OTHER)
        [shard] = (tmp_path / "home").rglob("model-00002-of-00003.safetensors")
        shard.unlink()
        shard = tmp_path / "home/hub/models--a--b/blobs" / etag(files[shard.name])
        shard.unlink()
        hub.requests.clear()
        Client(hub.url, tmp_path / "home", "a/b").loaded(commit=OTHER)  # a part is missing: only that is fetched
        assert hub.paths() == ["model-00002-of-00003.safetensors"]


@pytest.mark.parametrize("cached_as", ["gpt2", GPT2])
@pytest.mark.parametrize("called", ["gpt2", GPT2])
def test_what_transformers_cached_counts(tmp_path, cached_as, called):
    fill_cache(tmp_path, cached_as, OTHER, FILES)
    Client(REFUSING, tmp_path, called, text=TEXT).loaded(commit=OTHER, text=TEXT)


def test_the_pinned_commit_is_preferred_in_the_cache(tmp_path):
    fill_cache(tmp_path, GPT2, OTHER, model_files(seed=1)[0])
    fill_cache(tmp_path, "gpt2", COMMIT, FILES, main=False)
    Client(REFUSING, tmp_path).loaded()


def test_a_vocabulary_that_is_not_cached_is_fetched_when_asked_for(tmp_path):
    weights = {file: FILES[file] for file in ("config.json", "model.safetensors")}
    fill_cache(tmp_path, "gpt2", COMMIT, weights)
    Client(REFUSING, tmp_path).loaded()  # runs on ids
    sentence = Client(REFUSING, tmp_path, text=TEXT).refused_quietly()
    assert (
        "the vocabulary of gpt2 (vocab.json, merges.txt) is not in the cache" in sentence
        and "cannot be reached" in sentence
    )
    with serving({GPT2: Repo(COMMIT, FILES)}) as hub:
        Client(hub.url, tmp_path, text=TEXT).loaded(text=TEXT)
        assert hub.paths() == ["vocab.json", "merges.txt"]
    Client(hub.url, tmp_path, text=TEXT).loaded(text=TEXT)


def test_the_settings_of_a_vocabulary_are_fetched_with_it(tmp_path):
    """tokenizer_config.json and the added tokens change every id: a cache without them is not taken as it is."""
    files = FILES | {
        "tokenizer_config.json": json.dumps({"add_prefix_space": True}).encode(),
        "added_tokens.json": json.dumps({"<sep>": 257}).encode(),
    }
    fill_cache(tmp_path, "a/b", OTHER, FILES)
    sentence = Client(REFUSING, tmp_path, "a/b", text=TEXT).refused_quietly()
    assert "the vocabulary of a/b (tokenizer_config.json) is not in the cache" in sentence
    with serving({"a/b": Repo(OTHER, files)}) as hub:
        Client(hub.url, tmp_path, "a/b", text="a<sep>b").loaded(commit=OTHER, text=" a<sep> b")
    Client(hub.url, tmp_path, "a/b", text="a<sep>b").loaded(commit=OTHER, text=" a<sep> b")
    with serving({"a/c": Repo(OTHER, FILES)}) as hub:
        Client(hub.url, tmp_path, "a/c", text=TEXT).loaded(commit=OTHER, text=TEXT)
    Client(hub.url, tmp_path, "a/c", text=TEXT).loaded(commit=OTHER, text=TEXT)  # known not to be there


def test_a_repository_without_vocabulary_runs_on_ids(tmp_path):
    with serving({"a/b": Repo(OTHER, model_files(vocabulary=False)[0])}) as hub:
        Client(hub.url, tmp_path, "a/b").loaded(commit=OTHER)
        sentence = Client(hub.url, tmp_path, "a/b", text="a").refused_quietly("CheckpointError")
        assert "has no vocab.json and no merges.txt" in sentence


def test_what_is_no_gpt2_is_refused_before_its_weights_are_fetched(tmp_path):
    bert = FILES | {"config.json": json.dumps(config_fields(CONFIG, model_type="bert")).encode()}
    pickled = {file: data for file, data in FILES.items() if file != "model.safetensors"} | {"pytorch_model.bin": b"x"}
    with serving({"a/bert": Repo(OTHER, bert), "a/pickle": Repo(OTHER, pickled)}) as hub:
        assert "model_type is 'bert'" in Client(hub.url, tmp_path, "a/bert").refused_quietly("CheckpointError")
        assert hub.paths() == ["config.json"]
        assert "a pickle" in Client(hub.url, tmp_path, "a/pickle").refused_quietly("CheckpointError")
        assert "pytorch_model.bin" not in hub.paths()


# The Hub cannot be reached


def assert_three_ways(sentence, home):
    assert "openai-community/gpt2" in sentence and str(home) in sentence
    assert "network" in sentence and "HF_HUB_CACHE" in sentence and "give a folder" in sentence


def test_connection_refused(tmp_path):
    client = Client(REFUSING, tmp_path)
    sentence = client.refused_quietly()
    assert REFUSING in sentence and "refused" in sentence
    assert_three_ways(sentence, tmp_path)
    assert client.seconds < PATIENCE


def test_a_silent_hub_is_noticed_in_time(tmp_path):
    """Silent: it accepts and says nothing. Trickling: a byte now and then keeps every timeout of the client away."""

    def trickle(request):
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 60:
            request.wfile.write(bytes([byte]))
            time.sleep(0.2)
        return True

    with socket.create_server(("127.0.0.1", 0)) as silent, serving({}, fault=trickle) as hub:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}", hub.url]
        for client in [Client(url, tmp_path) for url in urls]:
            sentence = client.refused_quietly()
            assert f"no answer within {PATIENCE} seconds" in sentence or "timed out" in sentence
            assert_three_ways(sentence, tmp_path)
            assert PATIENCE - 1 < client.seconds < PATIENCE + 3  # which importing the client adds to


def test_offline(tmp_path):
    with serving({GPT2: Repo(COMMIT, FILES)}) as hub:
        sentence = Client(hub.url, tmp_path, HF_HUB_OFFLINE="1").refused_quietly()
        assert "HF_HUB_OFFLINE is set" in sentence
        assert_three_ways(sentence, tmp_path)
        assert hub.requests == []


def test_a_page_that_is_not_the_hub(tmp_path):
    """The login page of a hotel's network answers everything with 200."""
    with serving({}, fault=lambda request: request.send(b"<html>Welcome!</html>")) as hub:
        sentence = Client(hub.url, tmp_path).refused_quietly()
        assert "not the Hub" in sentence
        assert_three_ways(sentence, tmp_path)


# The Hub says no


REFUSALS = [
    (401, {}, "there is no folder 'me/mine' here and .* shows no model 'me/mine'.*401.*hf auth login"),
    (403, {"X-Error-Code": "GatedRepo"}, "me/mine is open only to those who accept its terms"),
    (404, {"X-Error-Code": "RepoNotFound"}, "shows no model 'me/mine'.*404.*check the spelling"),
    (404, {"X-Error-Code": "EntryNotFound"}, "me/mine has no config.json on the Hub"),
    (429, {"Retry-After": "70"}, "too many requests.*wait 70 seconds"),
    (429, {}, "too many requests.*wait a few minutes"),
    (500, {}, "answers 500 .*try again later"),
]


@pytest.mark.parametrize("code, headers, says", REFUSALS)
def test_a_refusal_is_one_sentence(tmp_path, code, headers, says):
    with serving({}, fault=lambda request: request.answer(code, **headers)) as hub:
        client = Client(hub.url, tmp_path, "me/mine")
        assert re.search(says, client.refused_quietly()), client.err
        assert client.seconds < PATIENCE + 3


def test_a_passing_server_error_is_waited_for(tmp_path):
    answers = [500, 503]
    with serving({GPT2: Repo(COMMIT, FILES)}, fault=lambda request: answers and request.answer(answers.pop())) as hub:
        assert Client(hub.url, tmp_path).loaded().err == ""
    assert not answers


NO_NAMES = ["./gpt2", "/no/such/folder", "models/gpt2/small", "~/gpt2", "a--b", "", " ", "a\0b", "x" * 5000]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_can_only_be_a_folder(name):
    with pytest.raises(CheckpointError, match=f"there is no folder {re.escape(repr(name)[:300])}"):
        load(name)


# Something breaks on the way


def test_a_cut_transfer_is_resumed(tmp_path):
    """The rest is asked for by a range, and what came is kept."""
    cuts = [25 << 20]

    def cut(request):
        if cuts and request.is_for("model.safetensors"):
            return request.send(BIG_FILES["model.safetensors"], stop=cuts.pop())

    with serving({GPT2: Repo(COMMIT, BIG_FILES)}, fault=cut) as hub:
        Client(hub.url, tmp_path).loaded(BIG_DIGEST)
        ranges = [asked for _, path, asked in hub.requests if "/cdn/" in path]
    assert ranges == [None, f"bytes={25 << 20}-"]


@pytest.mark.parametrize("then, says", [("is cut again", "broke off"), ("answers 500", "answers 500 when asked for")])
def test_a_transfer_that_stays_cut_and_the_next_call(tmp_path, then, says):
    data = FILES["model.safetensors"]
    tries = []

    def cut(request):
        if request.is_for("model.safetensors"):
            tries.append(1)
            return request.answer(500) if then == "answers 500" and len(tries) > 1 else request.send(data, stop=999)

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=cut) as hub:
        sentence = Client(hub.url, tmp_path).refused()
        assert says in sentence and "what has arrived whole is kept" in sentence
        hub.fault = None
        hub.requests.clear()
        Client(hub.url, tmp_path).loaded()
        assert set(hub.paths()) == {"model.safetensors"}  # so it is: only the rest is fetched


@pytest.mark.parametrize(
    "file, wrong",
    [("model.safetensors", "bytes"), ("model.safetensors", "size"), ("vocab.json", "bytes"), ("config.json", "bytes")],
)
def test_wrong_bytes_are_not_kept(tmp_path, file, wrong):
    data = FILES[file]
    bad = data[:-20] if wrong == "size" else data[:-20] + bytes(byte ^ 1 for byte in data[-20:])

    def tamper(request):
        return (
            request.command == "GET"
            and request.path.endswith(file)
            and (file != "model.safetensors" or "/cdn/" in request.path)
            and request.send(bad)
        )

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=tamper) as hub:
        sentence = Client(hub.url, tmp_path).refused_quietly()
        assert (
            "checksum" if wrong == "bytes" else f"came with {len(bad):,} bytes instead of {len(data):,}"
        ) in sentence
        assert not [path for path in tmp_path.rglob(file) if path.is_file()]
        hub.fault = None
        Client(hub.url, tmp_path, text=TEXT).loaded(text=TEXT)


@pytest.mark.parametrize("damage", ["truncated", "overwritten with NaN"])
def test_a_damaged_cache_heals(tmp_path, damage):
    with serving({GPT2: Repo(COMMIT, FILES)}) as hub:
        Client(hub.url, tmp_path).loaded()
        [blob] = tmp_path.rglob(etag(FILES["model.safetensors"]))
        blob.write_bytes(blob.read_bytes()[:-100] + (b"" if damage == "truncated" else b"\xff" * 100))
        sentence = Client(hub.url, tmp_path).refused_quietly("CheckpointError")
        assert "removed model.safetensors: run again" in sentence
        Client(hub.url, tmp_path).loaded()


def test_a_checkpoint_that_is_wrong_on_the_hub_is_not_removed(tmp_path):
    bad = FILES | {"config.json": json.dumps(config_fields(CONFIG, n_layer=4)).encode()}
    with serving({GPT2: Repo(COMMIT, bad)}) as hub:
        for _ in range(2):
            sentence = Client(hub.url, tmp_path).refused_quietly("CheckpointError")
            assert "config.json says n_layer = 4, the weights 3" in sentence and "removed" not in sentence
        assert hub.paths().count("config.json") == 1


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid(), reason="only root on Linux can mount a disk")
@pytest.mark.parametrize("stated", [True, False], ids=["size stated", "size unknown"])
def test_a_full_disk(tmp_path, stated):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", disk], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")

    def unstated(request):  # without a size, the client learns of the full disk only when it is full
        if stated or not request.path.endswith("/model.safetensors") or "/cdn/" in request.path:
            return False
        stored_as = etag(BIG_FILES["model.safetensors"])
        cdn = f"http://localhost:{request.server.server_port}/cdn/{stored_as}/model.safetensors"
        return request.answer(302, Location=cdn, **{"X-Linked-Etag": f'"{stored_as}"', "X-Repo-Commit": COMMIT})

    try:
        with serving({GPT2: Repo(COMMIT, BIG_FILES)}, fault=unstated) as hub:
            sentence = Client(hub.url, disk).refused_quietly()
            assert f"the disk of {disk}/hub is too full" in sentence and "make room" in sentence
            subprocess.run(["mount", "-o", "remount,size=80m", disk], check=True)
            Client(hub.url, disk).loaded(BIG_DIGEST)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def slow(request):
    return request.is_for("model.safetensors") and request.send(BIG_FILES["model.safetensors"], pause=0.02)


def test_two_at_once(tmp_path):
    with serving({GPT2: Repo(COMMIT, BIG_FILES)}, fault=slow) as hub:
        for client in [Client(hub.url, tmp_path), Client(hub.url, tmp_path)]:
            client.loaded(BIG_DIGEST)
        Client(hub.url, tmp_path).loaded(BIG_DIGEST)


def test_interrupted_and_again(tmp_path):
    with serving({GPT2: Repo(COMMIT, BIG_FILES)}, fault=slow) as hub:
        client = Client(hub.url, tmp_path)
        while not any("/cdn/" in path for _, path, _ in hub.requests):
            time.sleep(0.05)
        time.sleep(0.2)
        assert list(tmp_path.rglob("*.incomplete"))
        client.process.send_signal(signal.SIGINT)
        client.end()
        assert client.process.returncode == -signal.SIGINT and client.out == ""
        assert not list(tmp_path.rglob("*.incomplete")) and not list(tmp_path.rglob("model.safetensors"))
        hub.fault = None
        Client(hub.url, tmp_path).loaded(BIG_DIGEST)


def test_killed_and_again(tmp_path):
    """Power fails: nothing is cleaned up, and the next call must not take what lies there for a model."""
    with serving({GPT2: Repo(COMMIT, BIG_FILES)}, fault=slow) as hub:
        client = Client(hub.url, tmp_path)
        while not any("/cdn/" in path for _, path, _ in hub.requests):
            time.sleep(0.05)
        time.sleep(0.2)
        client.process.kill()
        client.end()
        hub.fault = None
        Client(hub.url, tmp_path).loaded(BIG_DIGEST)
