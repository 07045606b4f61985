"""python -m minigpt2.convert: a nanoGPT or minGPT state dict becomes a folder that computes the same numbers."""

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from checkpoints import make_arrays, safetensors_bytes, stored
from vocabulary import genuine_vocabulary, tiny_vocabulary

from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import flatten
from minigpt2.convert import convert, main
from minigpt2.errors import CheckpointError, VocabularyError
from minigpt2.terminal import guarded

SIZES = Config(n_layer=2, n_head=2, n_embd=14, n_ctx=13, n_vocab=11, d_mlp=56)
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ARRAYS = make_arrays(SIZES)


def state_dict(arrays=ARRAYS, prefix="transformer.", turned=True, biases=True, masks=True, lm_head=True, dtype="F32"):
    """{name: stored(...)} as nanoGPT keeps a model."""
    state = {}
    for name, array in arrays.items():
        if biases or not name.endswith(".bias"):
            state[prefix + name] = stored(array.T if turned and name.endswith(MATRICES) else array, dtype)
    if masks:
        for layer in range(SIZES.n_layer):
            state[f"{prefix}h.{layer}.attn.bias"] = stored(np.tril(np.ones((1, 1, 13, 13))))
    if lm_head:
        state[prefix.removesuffix("transformer.") + "lm_head.weight"] = stored(arrays["wte.weight"], dtype)
    return state


def written(path, state):
    path.write_bytes(safetensors_bytes(state))
    return path


FORMS = {
    "nanoGPT": {},
    "compiled": {"prefix": "_orig_mod.transformer."},
    "compiled and distributed": {"prefix": "module._orig_mod.transformer."},
    "no masks, as with flash attention": {"masks": False},
    "without lm_head": {"lm_head": False},
    "GPT-2's own layout behind a prefix": {"prefix": "_orig_mod.", "turned": False},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_arrays(tmp_path, form):
    path = written(tmp_path / "x.safetensors", state_dict(**FORMS[form]))
    assert convert(path, tmp_path / "new", 2) == SIZES
    model = GPT2.from_pretrained(tmp_path / "new")
    assert model.config == SIZES
    for name, array in flatten(model.weights).items():
        np.testing.assert_array_equal(array, ARRAYS[name], err_msg=name)


def test_a_model_without_biases_gets_zeros(tmp_path):
    path = written(tmp_path / "x.safetensors", state_dict(biases=False, dtype="F64"))
    convert(path, tmp_path / "new", 2)
    model = GPT2.from_pretrained(tmp_path / "new", np.float64)
    for name, array in flatten(model.weights).items():
        np.testing.assert_array_equal(array, ARRAYS[name] if name.endswith("weight") else 0 * ARRAYS[name])


def changed(**changes):
    state = state_dict()
    for name, value in changes.items():
        name = "transformer." + name.replace("__", ".")
        state.pop(name)
        if value is not None:
            state[name] = value
    return state


other = ARRAYS["wte.weight"] + 1
REFUSED = {
    "an unembedding of its own": (state_dict() | {"lm_head.weight": stored(other)}, "differs from wte.weight"),
    "one bias missing": (changed(h__1__ln_2__bias=None), "h.1.ln_2.bias is missing"),
    "one layer not transposed": (
        changed(h__1__attn__c_attn__weight=stored(ARRAYS["h.1.attn.c_attn.weight"])),
        "all of them must be [42, 14], or all [14, 42]",
    ),
    "another family": ({"model.layers.0.self_attn.q_proj.weight": stored(np.zeros((3, 3)))}, "has no wte.weight"),
    "no positions": (changed(wpe__weight=None), "has no wpe.weight"),
    "more than a GPT-2": (state_dict() | {"transformer.h.0.attn.rotary": stored(np.zeros(3))}, "is not part of it"),
    "a name twice": (state_dict() | {"wte.weight": stored(other)}, "'wte.weight' twice"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_a_gpt2_is_refused_and_nothing_is_written(tmp_path, fault):
    state, says = REFUSED[fault]
    path = written(tmp_path / "x.safetensors", state)
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "new", 2)
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("n_head", [0, 3, -2])
def test_heads_that_do_not_divide_the_width_are_refused(tmp_path, n_head):
    path = written(tmp_path / "x.safetensors", state_dict())
    with pytest.raises(CheckpointError, match=f"n_head (is|=) {n_head}"):
        convert(path, tmp_path / "new", n_head)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    path = written(tmp_path / "x.safetensors", state_dict())
    with pytest.raises(CheckpointError, match="not empty"):
        convert(path, tmp_path, 2)
    assert [found.name for found in tmp_path.iterdir()] == ["x.safetensors"]


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was opened')",)


@pytest.mark.parametrize("name, data", [("ckpt.pt", pickle.dumps(Bomb())), ("x.bin", b"PK\x03\x04 a zip of pickles")])
def test_a_pickle_is_never_opened(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match="is a pickle.*weights_only=True.*save_file"):
        convert(tmp_path / name, tmp_path / "new", 2)


# The command


def call(capsys, *arguments):
    try:
        status = guarded(lambda: main(list(map(str, arguments))))
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_the_command_names_the_sizes_and_the_form_of_gelu(tmp_path, capsys):
    path = written(tmp_path / "x.safetensors", state_dict())
    status, out, err = call(capsys, path, tmp_path / "new", "--n-head", 2)
    assert status == 0 and out.startswith("Written: ") and "n_head 2, n_embd 14" in out
    assert err.startswith("WARNING: ") and "erf form" in err and err.count("\n") == 1
    assert call(capsys, path, tmp_path / "new2")[0] == 2  # the heads are never guessed


def test_a_vocabulary_is_checked_and_copied(tmp_path, capsys):
    """264 tokens, and an embedding padded to 272 as nanoGPT pads 50257 to 50304."""
    from dataclasses import replace

    (tmp_path / "words").mkdir()
    tiny_vocabulary(tmp_path / "words")
    path = written(tmp_path / "x.safetensors", state_dict(make_arrays(replace(SIZES, n_vocab=272))))
    arguments = [path, tmp_path / "new", "--n-head", 2, "--vocabulary", tmp_path / "words"]
    status, out, _ = call(capsys, *arguments)
    assert status == 0 and "Token ids 264 to 271 are padding" in out
    model = GPT2.from_pretrained(tmp_path / "new")
    assert model.decode(model.encode("the thing")) == "the thing" and model.config.n_vocab == 272
    assert json.loads((tmp_path / "new/config.json").read_text())["eos_token_id"] == 263  # not the last of the padding
    small = written(tmp_path / "small.safetensors", state_dict())
    with pytest.raises(VocabularyError, match="more than the model's n_vocab of 11"):
        convert(small, tmp_path / "other", 2, tmp_path / "words")
    assert not (tmp_path / "other").exists()


def test_gpt2s_own_vocabulary_comes_from_the_cache_by_name(monkeypatch):
    from minigpt2.checkpoint import hub
    from minigpt2.convert import find_vocabulary

    asked = []
    monkeypatch.setattr(hub, "cached", lambda *arguments: asked.append(arguments) or [genuine_vocabulary()[0].parent])
    monkeypatch.setattr(hub, "fetch", lambda *arguments: "fetched")
    assert find_vocabulary("gpt2") == "fetched"  # the package's files have older names, so the cache has none
    gpt2 = ["openai-community/gpt2", "gpt2"], hub.PINNED["openai-community/gpt2"]
    assert asked == [(*gpt2, "vocab.json"), (*gpt2, "tokenizer.json")]
    assert find_vocabulary("none") is None


# Against a model in PyTorch


def nano_gpt(torch, bias, gelu):
    """nanoGPT's model.py in brief: its module names, its layouts, its initial spread times ten."""
    nn = torch.nn
    n_embd, n_head = SIZES.n_embd, SIZES.n_head

    def norm():
        module = nn.LayerNorm(n_embd, bias=bias)
        nn.init.normal_(module.weight, 1, 0.3)
        return module

    def linear(n_in, n_out):
        return nn.Linear(n_in, n_out, bias=bias)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_attn, self.c_proj = linear(n_embd, 3 * n_embd), linear(n_embd, n_embd)
            self.register_buffer("bias", torch.tril(torch.ones(13, 13)).view(1, 1, 13, 13))

        def forward(self, x):
            n = x.shape[1]
            q, k, v = (part.view(1, n, n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(n_embd, dim=2))
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.shape[-1])
            weights = scores.masked_fill(self.bias[:, :, :n, :n] == 0, -math.inf).softmax(-1)
            return self.c_proj((weights @ v).transpose(1, 2).reshape(1, n, n_embd))

    class MLP(nn.Module):
        def __init__(self):
            super().__init__()
            self.c_fc, self.gelu, self.c_proj = linear(n_embd, 56), nn.GELU(approximate=gelu), linear(56, n_embd)

        def forward(self, x):
            return self.c_proj(self.gelu(self.c_fc(x)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.attn, self.ln_2, self.mlp = norm(), Attention(), norm(), MLP()

        def forward(self, x):
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict(
                dict(
                    wte=nn.Embedding(11, n_embd), wpe=nn.Embedding(13, n_embd),
                    h=nn.ModuleList([Block() for _ in range(SIZES.n_layer)]), ln_f=norm(),
                )
            )  # fmt: skip
            self.lm_head = nn.Linear(n_embd, 11, bias=False)
            self.transformer.wte.weight = self.lm_head.weight

        def forward(self, tokens):
            t = self.transformer
            x = t.wte(tokens) + t.wpe(torch.arange(tokens.shape[1]))
            for block in t.h:
                x = block(x)
            return self.lm_head(t.ln_f(x))

    torch.manual_seed(3)
    return Model().double().eval()


@pytest.mark.reference
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gelu", ["tanh", "none"])
def test_a_model_in_pytorch_gives_the_same_logits(tmp_path, bias, gelu):
    """Saved as nanoGPT saves, then by the command that the refusal of a pickle prints. The erf form differs, and says so."""
    torch = pytest.importorskip("torch")
    theirs, path = nano_gpt(torch, bias, gelu), tmp_path / "ckpt.pt"
    state = {f"_orig_mod.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"model": state, "model_args": {"n_head": 2}, "iter_num": 7}, path)
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "new", 2)
    subprocess.run([sys.executable, "-c", str(caught.value).partition("PyTorch: ")[2]], check=True, capture_output=True)
    convert(path.with_suffix(".safetensors"), tmp_path / "new", 2)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    ours = GPT2.from_pretrained(tmp_path / "new", np.float64).run(tokens).logits
    with torch.no_grad():
        difference = np.abs(theirs(torch.tensor([tokens]))[0].numpy() - ours).max()
    assert difference < 1e-10 if gelu == "tanh" else 1e-6 < difference < 1e-2
