"""A server that lies, stalls or floods, and what stands around the cache: one sentence soon, and nothing is written or
deleted outside the cache. docs/promises.md says what is promised of this."""

import fcntl
import gzip
import re

import pytest
from checkpoints import make_arrays
from hub_client import (
    COMMIT,
    CONFIG,
    DIGEST,
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

from minigpt2.checkpoint import cache, download, hub
from minigpt2.errors import HubError

WEIGHTS = FILES["model.safetensors"]


def chunked(pieces):
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


# What the server states becomes paths


@pytest.mark.parametrize(
    "checksum", ["/a/b", "../b", "..", ".b", "a/b", "a\\b", "C:b", "", "a b", "a" * 201, "\x1b[2J"]
)
def test_a_checksum_that_is_no_name_is_refused(checksum):
    with pytest.raises(HubError, match="names the checksum .* for config.json, as the Hub never does") as error:
        download.check_stated(download.Stated(COMMIT, checksum, "", 0), "main", "config.json")
    assert download.constants.ENDPOINT in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("checksum", [etag(b"small"), etag(WEIGHTS), "5f3a-1c", "0x8DC-gzip", "abc=="])
def test_a_mirrors_own_checksum_is_a_name(checksum):
    download.check_stated(download.Stated(COMMIT, checksum, "", 0), "main", "config.json")


@pytest.mark.parametrize("commit", ["", "..", "/a", "../../" + COMMIT, COMMIT[:-1], COMMIT.upper(), OTHER])
def test_a_commit_that_is_not_one_or_not_the_one_asked_for_is_refused(commit):
    with pytest.raises(HubError, match=f"names the commit .* for config.json at revision {COMMIT}"):
        download.check_stated(download.Stated(commit, "a", "", 0), COMMIT, "config.json")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_nothing_is_written_where_a_checksum_says(tmp_path, file):
    """huggingface_hub 2.4 alone would write the server's bytes to /.../outside/new.pth."""
    outside = tmp_path / "outside" / "new.pth"

    def lie(request):
        if request.path.endswith(f"/{file}") and "/cdn/" not in request.path:
            return request.send(FILES[file], **{"X-Repo-Commit": COMMIT, "ETag": f'"{outside}"'})

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=lie) as server:
        sentence = Client(server.url, tmp_path / "home").refused_quietly()
        assert f"{server.url} names the checksum '{outside}' for {file}" in sentence
        assert file not in server.paths("GET")
    assert not outside.parent.exists()


def test_nothing_is_written_where_a_commit_says(tmp_path):
    """huggingface_hub alone keeps note, in a file, of each file that a commit does not have."""

    def lie(request):
        if request.path.endswith("vocab.json"):
            return request.answer(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": f"{tmp_path}/outside"})

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=lie) as server:
        Client(server.url, tmp_path / "home").loaded()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("large", [True, False])
def test_only_the_repositorys_own_blobs_are_removed(tmp_path, large):
    """A file elsewhere may be called like a checksum, and a link in a snapshot may lead to it."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    name = "0" * (64 if large else 40)
    outside, inside = tmp_path / "elsewhere" / name, tmp_path / "models--a--b" / "blobs" / name
    for blob in (outside, inside):
        blob.parent.mkdir()
        blob.write_bytes(b"other bytes")
    (snapshot / "a").symlink_to(f"../../../elsewhere/{name}")
    (snapshot / "b").symlink_to(f"../../blobs/{name}")
    (snapshot / name).write_bytes(b"the user's own")
    assert cache.discard_damaged(snapshot) == ["b"]
    assert outside.is_file() and (snapshot / "a").is_file() and (snapshot / name).is_file() and not inside.exists()


# Waits


def test_a_day_of_waiting_is_not_waited(tmp_path):
    """429 for a later file, where huggingface_hub alone would sleep as long as the server says, or for its bytes."""
    tomorrow = {"Retry-After": "86400"}
    for method, file in (("HEAD", "vocab.json"), ("GET", "merges.txt"), ("GET", "model.safetensors")):

        def fault(request, method=method, file=file):
            return request.command == method and request.path.endswith(file) and request.answer(429, **tomorrow)

        with serving({GPT2: Repo(COMMIT, FILES)}, fault=fault) as server:
            client = Client(server.url, tmp_path / file)
            assert "too many requests from here (429): wait 86400 seconds" in client.refused_quietly()
            assert client.seconds < 5


def trickled_body(request):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WEIGHTS)
    return request.send_raw([head] + [b"x"] * 400, pause=0.05)


def trickled_head(request):
    return request.send_raw([b"HTTP/1.1 200 OK\r\nX-Slow: "] + [b"x"] * 400, pause=0.05)


def trickled_chunk_extension(request):
    return request.send_raw([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"] + [b"x"] * 400, pause=0.05)


@pytest.mark.parametrize("trickle", [trickled_body, trickled_head, trickled_chunk_extension])
def test_bytes_that_only_trickle_are_given_up(tmp_path, trickle):
    def fault(request):
        return request.is_for("model.safetensors") and trickle(request)

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=fault) as server:
        client = Client(server.url, tmp_path, waits={"PATIENCE_PIECE": 2})
        sentence = client.refused_quietly()
        assert re.search("localhost:[0-9]+ sent less than 64 KiB of model.safetensors .* in 2 seconds", sentence)
        assert client.seconds < 6


def test_a_later_answer_that_never_comes_is_given_up(tmp_path):
    def fault(request):
        return request.path.endswith("merges.txt") and trickled_head(request)

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=fault) as server:
        client = Client(server.url, tmp_path, waits={"PATIENCE_LATER": 2})
        assert "no answer within 2 seconds" in client.refused_quietly() and client.seconds < 5


def test_a_slow_and_honest_line_goes_on(tmp_path):
    """Longer in all than what is waited for one piece."""

    def fault(request):
        if request.is_for("model.safetensors"):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(WEIGHTS)
            pieces = [WEIGHTS[start : start + 2048] for start in range(0, len(WEIGHTS), 2048)]
            return request.send_raw([head, *pieces], pause=0.15)

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=fault) as server:
        Client(server.url, tmp_path, waits={"PATIENCE_PIECE": 2, "PIECE": 4096}).loaded()


def test_a_lock_that_another_program_holds_is_not_waited_for(tmp_path):
    """huggingface_hub locks each file that it downloads; here a file is whole from its first moment, so none is needed."""
    locks = tmp_path / "hub" / ".locks" / "models--openai-community--gpt2"
    locks.mkdir(parents=True)
    with serving({GPT2: Repo(COMMIT, FILES)}) as server:
        held = [open(locks / f"{etag(data)}.lock", "w") for data in FILES.values()]
        for lock in held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        Client(server.url, tmp_path, text=TEXT).loaded(text=TEXT)
        for lock in held:
            lock.close()


# Floods


def config_headers(request, **more):
    return {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(FILES["config.json"])}"'} | more


def test_a_config_without_end_is_given_up(tmp_path):
    def flood(request):
        if request.path.endswith("config.json") and request.command == "GET":
            return request.send_raw(chunked([b" " * (1 << 20)] * 64))
        if request.path.endswith("config.json"):
            request.send_response(200)
            for header, value in config_headers(request).items():
                request.send_header(header, value)
            request.end_headers()
            request.close_connection = True
            return True

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=flood) as server:
        sentence = Client(server.url, tmp_path).refused_quietly()
        assert "config.json of openai-community/gpt2 came with more bytes" in sentence


@pytest.mark.parametrize("honest", [True, False])
def test_compressed_bytes_count_as_what_they_become(tmp_path, honest):
    """A proxy may compress although it was asked not to; 0.1 MB of gzip can be 100 MB."""
    data = FILES["config.json"] if honest else b" " * (100 << 20)

    def compress(request):
        if request.path.endswith("config.json") and request.command == "GET":
            return request.send(gzip.compress(data), **config_headers(request, **{"Content-Encoding": "gzip"}))

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=compress) as server:
        client = Client(server.url, tmp_path)
        if honest:
            client.loaded()
        else:
            assert "config.json of openai-community/gpt2 came with more bytes" in client.refused_quietly()


@pytest.mark.parametrize("file, size", [("config.json", 1 << 25), ("model.safetensors", 1 << 33)])
def test_a_size_that_such_a_file_cannot_have_is_refused_before_it_is_fetched(tmp_path, file, size):
    def boast(request):
        if request.path.endswith(f"/{file}") and request.command == "HEAD":
            named = {"X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag(FILES[file])}"', "X-Linked-Size": str(size)}
            return request.answer(302, Location=f"http://localhost:1/cdn/{file}", **named)

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=boast) as server:
        assert f"{file} of {GPT2} has {size:,} bytes, more than the" in Client(server.url, tmp_path).refused_quietly()
        assert file not in server.paths()


def test_the_largest_weights_that_a_config_allows_hold_every_form():
    """float64, lm_head beside wte, and the masks of early files as floats."""
    numbers = sum(array.size for array in make_arrays(CONFIG).values())
    masks = CONFIG.n_layer * (CONFIG.n_ctx**2 + 1)
    assert hub.largest(CONFIG) > 8 * (numbers + CONFIG.n_vocab * CONFIG.n_embd + masks)


# The token


def test_the_token_goes_to_the_hub_and_to_no_other_host(tmp_path):
    """Small files are served by the Hub itself, or by a redirect to another host at the last moment; large ones always
    by a redirect."""

    def turn_away(request):
        if request.command == "GET" and request.path.endswith("merges.txt") and "127.0.0.1" in request.headers["Host"]:
            return request.answer(302, Location=f"http://localhost:{request.server.server_port}{request.path}")

    with serving({GPT2: Repo(COMMIT, FILES)}, fault=turn_away) as server:
        Client(server.url, tmp_path, text=TEXT, HF_TOKEN="hf_secret").loaded(text=TEXT)
        by_host = {host.split(":")[0]: set() for host, _ in server.tokens}
        for host, token in server.tokens:
            by_host[host.split(":")[0]].add(token)
    assert by_host == {"127.0.0.1": {"Bearer hf_secret"}, "localhost": {None}}


@pytest.mark.parametrize("token", ["hf_sécret", "hf_ secret"])
def test_a_token_that_cannot_be_sent_is_named_and_not_shown(tmp_path, token):
    with serving({GPT2: Repo(COMMIT, FILES)}) as server:
        sentence = Client(server.url, tmp_path, HF_TOKEN=token).refused_quietly()
        assert "HF_TOKEN" in sentence and "cret" not in sentence
        assert server.requests == []


# The cache


def damage(home, whole, data):
    [blob] = home.rglob(etag(whole))
    blob.write_bytes(data)


DAMAGE = [("vocab.json", b'{"a": 0'), ("merges.txt", b"#version: 0.2\nxx yy\n"), ("tokenizer_config.json", b"{")]


@pytest.mark.parametrize("file, data", DAMAGE)
def test_a_damaged_vocabulary_heals(tmp_path, file, data):
    files = FILES | {"tokenizer_config.json": b'{"add_prefix_space": false}'}
    with serving({GPT2: Repo(COMMIT, files)}) as server:
        Client(server.url, tmp_path, text=TEXT).loaded(text=TEXT)
        damage(tmp_path, files[file], data)
        sentence = Client(server.url, tmp_path, text=TEXT).refused_quietly(None)
        assert f"removed {file}: run again to download it anew" in sentence
        server.requests.clear()
        Client(server.url, tmp_path, text=TEXT).loaded(text=TEXT)
        assert server.paths() == (
            [file] if file != "tokenizer_config.json" else []
        )  # gpt2's holds nothing that matters


def test_a_damaged_config_heals_where_the_weights_are_missing(tmp_path):
    with serving({GPT2: Repo(COMMIT, FILES)}) as server:
        fill_cache(tmp_path, GPT2, COMMIT, {"config.json": FILES["config.json"]})
        damage(tmp_path, FILES["config.json"], b"{")
        assert "removed config.json: run again" in Client(server.url, tmp_path).refused_quietly("CheckpointError")
        Client(server.url, tmp_path).loaded()


def test_what_is_cached_is_not_checked_again(tmp_path):
    """Other weights than the checksum's, which are weights all the same, load: hashing them would double the start."""
    other_files, other_digest = model_files(seed=1)
    assert len(other_files["model.safetensors"]) == len(WEIGHTS) and other_digest != DIGEST
    fill_cache(tmp_path, GPT2, COMMIT, FILES)
    damage(tmp_path, WEIGHTS, other_files["model.safetensors"])
    Client(REFUSING, tmp_path).loaded(other_digest)


# What the sentences say


def test_a_folder_that_holds_no_model_is_not_taken_for_gpt2(tmp_path):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "notes.txt").write_text("an unrelated folder")
    with serving({GPT2: Repo(COMMIT, FILES)}) as server:
        Client(server.url, tmp_path / "home", cwd=tmp_path).loaded()
    sentence = Client(REFUSING, tmp_path / "other", cwd=tmp_path).refused_quietly()
    assert "nor is the folder 'gpt2' here a model's, without a config.json" in sentence


def test_a_folder_that_holds_a_model_is_taken(tmp_path):
    (tmp_path / "gpt2").mkdir()
    for file, data in FILES.items():
        (tmp_path / "gpt2" / file).write_bytes(data)
    Client(REFUSING, tmp_path / "home", cwd=tmp_path).loaded(commit=None)


@pytest.mark.parametrize("settings", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_cache_that_holds_only_a_pickle(tmp_path, settings):
    fill_cache(tmp_path, "gpt2", OTHER, {"config.json": FILES["config.json"], "pytorch_model.bin": b"a pickle"})
    sentence = Client(REFUSING, tmp_path, **settings).refused_quietly()
    assert "holds gpt2 only as pytorch_model.bin, a pickle, which can run code and is never loaded" in sentence


@pytest.mark.parametrize("name", ["gpt2-small", "gpt-2", "GPT2", "openai/gpt2-small", "gpt2_small"])
def test_a_name_that_is_nearly_one_is_suggested(name):
    assert hub.meant(name) == " (did you mean 'gpt2'?)"


def test_a_name_that_is_like_none_is_not():
    assert hub.meant("gpt2") == hub.meant("bert-base") == hub.meant("gpt2-xl") == hub.meant("me/mine") == ""


def test_a_suggestion_is_made_where_the_hub_has_no_such_model(tmp_path):
    with serving({}) as server:
        assert "(did you mean 'gpt2'?)" in Client(server.url, tmp_path, "gpt2-small").refused_quietly()


def test_the_bundled_model_is_a_way(tmp_path):
    assert 'take "bundled", the small model' in Client(REFUSING, tmp_path).refused_quietly()


def test_a_servers_text_is_shown_without_its_control_characters(tmp_path):
    with serving({}, fault=lambda request: request.send_raw([b"HTTP/1.1 \x1b[2J hello\r\n\r\n"])) as server:
        assert Client(server.url, tmp_path).refused_quietly().isprintable()
