"""An overwrite is what it says, `z[layer][heads, positions] = value` at the moment at which z is there: in runs, resumed
runs, generation and backward passes, against a forward pass that shares no line with minigpt2 and against Hugging Face's.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens, random_weights

from minigpt2 import Overwrite
from minigpt2.backward import activation_gradients
from minigpt2.generate import generate, generate_plain
from minigpt2.overwrite import BY_HEAD, ORDER

N_SEQ = 5
TOKENS = random_tokens(ODD, N_SEQ)
# float64 through three blocks, on logits of a few units; overwritten values are of the size of activations
ROUNDING = 1e-12
KEPT = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_out")


# The same by hand: plain_forward, and an overwrite as an assignment of one row after the other


def rows_of(o, n_head, n_seq):
    """(index of the value, index of the activation) of every row that an overwrite writes."""
    positions = range(n_seq) if o.positions is None else o.positions
    if o.name not in BY_HEAD:
        return [((i,), (position,)) for i, position in enumerate(positions)]
    heads = range(n_head) if o.heads is None else o.heads
    return [((i, j), (head, position)) for i, head in enumerate(heads) for j, position in enumerate(positions)]


def value_of_resid_pre(o):
    return (
        o.value.resid_pre[o.layer][slice(None) if o.positions is None else o.positions]
        if hasattr(o.value, "activation")
        else o.value
    )


def by_hand(overwrites, config=ODD, seen=None):
    """The overwrites as plain_forward takes them; seen is filled with every activation as it then stood. A resid_pre is the
    resid_post of the layer before, and written there, so that both are seen as they are in a Run."""
    overwrites = [
        replace(o, layer=o.layer % config.n_layer - 1, name="resid_post", value=value_of_resid_pre(o))
        if o.name == "resid_pre" and o.layer % config.n_layer else o
        for o in overwrites
    ]  # fmt: skip

    def overwrite(name, layer, x):
        x = np.array(x)
        for o in (o for o in overwrites if (o.name, o.layer % config.n_layer) == (name, layer)):
            rows = rows_of(o, config.n_head, x.shape[-2])
            counts = tuple(max(index[axis] for index, _ in rows) + 1 for axis in range(x.ndim - 1))
            if hasattr(o.value, "activation"):
                array = o.value.activation(name, layer)
                value = np.array([array[at] for _, at in rows]).reshape(*counts, -1)
            else:
                value = np.broadcast_to(o.value, (*counts, x.shape[-1]))
            for index, at in rows:
                x[at] = value[index] + (x[at] if o.add else 0)
        if name == "pattern":
            for query in range(x.shape[-1]):
                x[:, query, query + 1 :] = 0  # no query reads a later key
        if seen is not None:
            seen[name, layer] = x
        return x

    return overwrite


def random_overwrites(rng, n, config=ODD, n_seq=N_SEQ, runs=(), names=ORDER):
    """Up to n overwrites of any kind at random places, no two of one entry."""
    made, taken = [], set()
    for _ in range(n):
        name, layer = str(rng.choice(names)), int(rng.integers(config.n_layer))
        some = lambda k: None if rng.random() < 0.25 else rng.choice(k, rng.integers(1, k + 1), False)  # noqa: E731
        heads, positions = some(config.n_head) if name in BY_HEAD else None, some(n_seq)
        o = Overwrite(layer, name, 0, heads, positions)
        key = (layer + 1, "resid_pre") if name == "resid_post" else (layer, name)
        places = {(key, at[0] if len(at) == 2 else None, at[-1]) for _, at in rows_of(o, config.n_head, n_seq)}
        if places & taken:
            continue
        taken |= places
        size = {"pattern": n_seq, "result": config.n_embd}.get(
            name, config.d_head if name in BY_HEAD else config.n_embd
        )
        shape = (n_seq if positions is None else len(positions), size)
        if name in BY_HEAD:
            shape = (config.n_head if heads is None else len(heads), *shape)
        kind = rng.choice(
            ["number", "vector", "column", "array", "run"] if runs else ["number", "vector", "column", "array"]
        )
        value = {
            "number": lambda: float(rng.standard_normal()),
            "vector": lambda: rng.standard_normal(size),
            "column": lambda: rng.standard_normal((*shape[:-1], 1)),
            "array": lambda: rng.standard_normal(shape),
            "run": lambda: runs[rng.integers(len(runs))],
        }[kind]()
        negative = lambda at, k: at if at is None or rng.random() < 0.5 else [int(i) - k for i in at]  # noqa: E731
        o = (int(layer) - config.n_layer * bool(rng.random() < 0.3), name, value, negative(heads, config.n_head))
        made.append(Overwrite(*o, negative(positions, n_seq), add=bool(rng.random() < 0.3)))
    return made


def close(a, b, tolerance=ROUNDING):
    scale = max(1, abs(b).max())
    assert a.shape == b.shape and abs(a - b).max() <= tolerance * scale, f"{abs(a - b).max():.1e} of {scale:.1f}"


@pytest.mark.parametrize("seed", range(12))
def test_a_run_under_overwrites_is_the_plain_forward_pass_with_them(model, seed):
    rng, seen = np.random.default_rng(seed), {}
    overwrites = random_overwrites(rng, 50, runs=[model.run(random_tokens(ODD, N_SEQ, i)) for i in (1, 2)])
    assert 8 <= len(overwrites) <= 50
    run = model.run(TOKENS, overwrites=overwrites)
    close(run.logits, plain_forward(TOKENS, model.weights, ODD, by_hand(overwrites, seen=seen)))
    assert abs(run.logits - model.run(TOKENS).logits).max() > 0.1
    for name in KEPT:
        for layer in range(ODD.n_layer):
            close(run.activation(name, layer), seen[name, layer])
            close(run.activation("result", layer), seen["result", layer])
            close(run.pattern[layer], seen["pattern", layer])


def test_every_name_value_and_place_was_among_them():
    made = [o for seed in range(12) for o in random_overwrites(np.random.default_rng(seed), 50, runs=[random_model()])]
    assert {o.name for o in made} == set(ORDER) and {o.add for o in made} == {True, False}
    assert {np.ndim(o.value) for o in made} >= {0, 1, 2, 3} and any(o.layer < 0 for o in made)
    assert any(o.heads is None for o in made if o.name in BY_HEAD) and any(o.positions is None for o in made)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("layer", range(3))
def test_one_overwrite_alone(model, name, layer):
    for o in (Overwrite(layer, name, 0.3), Overwrite(layer, name, 0.1, positions=[1, 3], add=True)):
        hand = plain_forward(TOKENS, model.weights, ODD, by_hand([o]))
        close(model.run(TOKENS, overwrites=[o]).logits, hand)


def test_a_batch_is_overwritten_as_each_of_its_texts(model):
    texts = [random_tokens(ODD, N_SEQ, seed) for seed in range(3)]
    overwrites = random_overwrites(np.random.default_rng(7), 30)
    for run, text in zip(model.run_batch(texts, overwrites=overwrites), texts):
        close(run.logits, plain_forward(text, model.weights, ODD, by_hand(overwrites)))


def test_nothing_is_left_of_an_overwrite_in_model_or_values(model):
    before, value = model.run(TOKENS).logits, np.ones((2, N_SEQ, ODD.d_head))
    model.run(TOKENS, overwrites=[Overwrite(0, "z", value), Overwrite(1, "resid_pre", 2, positions=[0], add=True)])
    np.testing.assert_array_equal(model.run(TOKENS).logits, before)
    assert (value == 1).all()


def test_a_float32_model_stays_float32():
    model = random_model(ODD, np.float32)
    run = model.run(TOKENS, overwrites=random_overwrites(np.random.default_rng(0), 50))
    assert run.logits.dtype == run.z.dtype == run.pattern.dtype == np.float32
    overwrites = random_overwrites(np.random.default_rng(0), 50)
    hand = plain_forward(TOKENS, random_weights(ODD), ODD, by_hand(overwrites))
    assert abs(run.logits - hand).max() < 1e-3


# Resumed runs


@pytest.mark.parametrize("seed", range(6))
def test_a_resumed_stream_meets_the_overwrites_ahead_of_it(model, seed):
    run, rng = model.run(TOKENS), np.random.default_rng(seed)
    for layer in range(ODD.n_layer):
        ahead = [o for o in random_overwrites(rng, 40) if o.layer % ODD.n_layer >= layer]
        whole = model.run(TOKENS, overwrites=ahead).logits
        given = run.resid_pre[layer].copy()
        close(model.resume(given, layer, overwrites=ahead), whole)
        np.testing.assert_array_equal(given, run.resid_pre[layer])
        later = [o for o in ahead if o.layer % 3 > layer or ORDER.index(o.name) >= ORDER.index("resid_mid")]
        whole = model.run(TOKENS, overwrites=later).logits
        close(model.resume(run.resid_mid[layer], layer, "resid_mid", overwrites=later), whole)


@pytest.mark.parametrize("o, layer, at", [
    (Overwrite(0, "z", 0), 1, "resid_pre"), (Overwrite(1, "z", 0), 1, "resid_mid"),
    (Overwrite(2, "mlp_out", 0), 3, "resid_pre"), (Overwrite(-3, "resid_post", 0), 2, "resid_mid"),
])  # fmt: skip
def test_an_overwrite_that_a_resumed_stream_never_meets_is_refused(model, o, layer, at):
    with pytest.raises(ValueError, match=f"{o.name} of layer {o.layer % 3} is not on the way"):
        model.resume(np.ones((N_SEQ, ODD.n_embd)), layer, at, overwrites=[o])


# Generation

STEERING = {
    "steering": [Overwrite(1, "resid_post", np.linspace(-2, 2, 14), add=True)],
    "an ablated head": [Overwrite(0, "z", 0, heads=[1]), Overwrite(2, "result", 0.1, heads=[0])],
    "keys and values": [Overwrite(1, "k", 0.5, heads=[0]), Overwrite(1, "v", -1, heads=[1], positions=[0, 2])],
    "the prompt's last token": [Overwrite(1, "resid_mid", np.linspace(2, -2, 14), positions=[4])],
    "tokens yet to come": [Overwrite(0, "mlp_out", 3, positions=[5, 7]), Overwrite(2, "q", 1, positions=[6])],
    "patterns": [Overwrite(1, "pattern", 0.2), Overwrite(2, "pattern", 0, heads=[1], positions=[3, 6])],
}


def read_logits(model, text, make, n, overwrites):
    """The logits that generation chooses its n tokens from, [n, n_vocab]."""
    seen, module = [], sys.modules["minigpt2.generate"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose", lambda logits, *_: seen.append(logits.copy()) or int(logits.argmax()))
        list(make(model, text, n, overwrites=overwrites))
    return np.array(seen)


@pytest.mark.parametrize("overwrites", STEERING)
def test_generation_reads_what_the_whole_text_gives(model, overwrites):
    """With a cache, without one, and by a forward pass of one's own over the text as it grows."""
    overwrites, text = STEERING[overwrites], list(TOKENS)
    cached, plain, without = (
        read_logits(model, TOKENS, make, 8, some)
        for make, some in ((generate, overwrites), (generate_plain, overwrites), (generate, []))
    )
    close(cached, plain)
    assert abs(cached[0] - without[0]).max() > 1e-3 or abs(cached[-1] - without[-1]).max() > 1e-3
    for read in cached:
        grown = [o for o in overwrites if o.positions is None or max(o.positions) < len(text)]
        early = [o for o in overwrites if o not in grown and min(o.positions) < len(text)]
        early = [Overwrite(o.layer, o.name, o.value, o.heads, [p for p in o.positions if p < len(text)]) for o in early]
        logits = plain_forward(text, model.weights, ODD, by_hand(grown + early))[-1]
        close(read, logits)
        text.append(int(read.argmax()))


# Gradients


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "name", ["resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]
)
def test_gradients_under_overwrites_are_central_differences(model, name, seed):
    """Of each value as it stands after the overwriting: moving it by hand moves the logits by its gradient."""
    rng, step = np.random.default_rng(seed), 1e-5
    overwrites = random_overwrites(rng, 12)
    slope = rng.standard_normal(ODD.n_vocab)
    run = model.run(TOKENS, overwrites=overwrites)
    gradient = getattr(activation_gradients(run, slope), name)
    largest = max(1e-3, abs(gradient).max())
    entries = [tuple(map(int, index)) for index in rng.permutation(list(np.ndindex(gradient.shape)))[:15]]
    for index in entries:
        if name == "pattern" and index[3] > index[2]:
            continue  # a later key, which stays 0
        sides = []
        for sign in (1, -1):
            write = by_hand(overwrites)

            def moved(what, layer, x, write=write, sign=sign, index=index):
                x = write(what, layer, x)
                if (what, layer) == (name, index[0]):
                    x[index[1:]] += sign * step
                return x

            sides.append(plain_forward(TOKENS, model.weights, ODD, moved)[-1] @ slope)
        assert abs((sides[0] - sides[1]) / (2 * step) - gradient[index]) <= 1e-6 * largest, f"{name}{list(index)}"


# What is refused


def nan(shape):
    return np.full(shape, np.nan)


REFUSED = {
    "an entry twice": ([(1, "z", 0, [0], [2, 3]), (1, "z", 1, None, [3])], "two overwrites write to z of layer 1 at head 0, position 3"),
    "an entry under two signs": ([(1, "z", 0, [-1], [-1]), (1, "z", 0, [1], [4])], "head 1, position 4"),
    "a stream under two names": ([(0, "resid_post", 0), (1, "resid_pre", 0, None, [2])], "two overwrites write to resid_pre of layer 1"),
    "a stream under two names, the other way": ([(2, "resid_pre", 0), (-2, "resid_post", 0)], "two overwrites"),
    "heads, positions": ([(0, "z", np.zeros((3, 7)), [0], [1, 2])], r"z of layer 0 .* broadcasts to \[1, 2, 7\], got \[3, 7\]"),
    "too wide": ([(0, "mlp_out", np.zeros(15))], r"broadcasts to \[5, 14\], got \[15\]"),
    "too many axes": ([(0, "mlp_out", np.zeros((1, 5, 14)))], r"broadcasts to \[5, 14\]"),
    "not numbers": ([(0, "z", "zero")], "a number, a Run, or an array .* got str"),
    "no value": ([(0, "z", None)], "a number, a Run, or an array"),
    "complex numbers": ([(0, "z", 1j)], "a number, a Run, or an array"),
    "lists of different lengths": ([(0, "z", [[1], [1, 2]])], "a number, a Run, or an array"),
    "NaN": ([(0, "z", nan((2, 5, 7)))], "contains NaN"),
    "infinity": ([(0, "v", np.inf)], "contains NaN, or infinity in float64"),
    "an unknown name": ([(0, "mlp_pre", 0)], "unknown activation 'mlp_pre'.*resid_pre, q, .*resid_post"),
    "a name that is no text": ([(0, 3, 0)], "unknown activation 3"),
    "heads of the stream": ([(0, "resid_mid", 0, [0])], "resid_mid has no heads"),
    "a layer": ([(3, "z", 0)], r"layer 3 is out of range: seeded has 3 layers \(0 to 2\)"),
    "half a layer": ([(0.5, "z", 0)], "layers must be a list of whole numbers"),
    "no layer": ([(None, "z", 0)], "layers must be a list of whole numbers"),
    "a head": ([(0, "z", 0, [2])], r"head 2 is out of range: seeded has 2 heads \(0 to 1\)"),
    "a position": ([(0, "z", 0, None, [5])], r"position 5 is out of range: the text has 5 tokens \(0 to 4\)"),
    "a negative position": ([(0, "z", 0, None, [-6])], "position -6 is out of range"),
    "a position twice": ([(0, "z", 0, None, [1, -4])], "positions contains position 1 twice"),
    "no positions": ([(0, "z", 0, None, [])], "positions must be a list of whole numbers with at least one"),
    "text for heads": ([(0, "z", 0, "all")], "heads must be a list"),
}  # fmt: skip


@pytest.mark.parametrize("some, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused_in_one_sentence(model, some, message):
    with pytest.raises(ValueError, match=message) as refusal:
        model.run(TOKENS, overwrites=[Overwrite(*o) for o in some])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("given", [Overwrite(0, "z", 0), "z", None, 3, {"z": 0}, [("z", 0)], [None]], ids=str)
def test_what_is_not_a_list_of_overwrites_is_refused(model, given):
    with pytest.raises(ValueError, match="overwrites must be a list of Overwrite"):
        model.run(TOKENS, overwrites=given)


def test_a_run_of_another_length_or_that_did_not_keep_it_is_refused(model):
    with pytest.raises(ValueError, match="the run to take z from has 4 tokens, this text 5"):
        model.run(TOKENS, overwrites=[Overwrite(0, "z", model.run(TOKENS[:4]))])
    with pytest.raises((ValueError, AttributeError), match="did not keep z"):
        model.run(TOKENS, overwrites=[Overwrite(0, "z", model.run(TOKENS, keep=[]))])


@pytest.mark.parametrize("o, message", [
    (Overwrite(0, "z", 0, positions=[-1]), "position -1 has no meaning in a text that grows"),
    (Overwrite(0, "z", 0, positions=[13]), r"position 13 is out of range: seeded has 13 positions \(0 to 12\)"),
    (Overwrite(0, "z", np.zeros((5, 7))), r"broadcasts to \[2, 1, 7\]"),
])  # fmt: skip
def test_what_cannot_be_written_into_a_text_that_grows_is_refused(model, o, message):
    for make in (generate, generate_plain):
        with pytest.raises(ValueError, match=message):
            make(model, TOKENS, 2, overwrites=[o])


def test_an_overwrite_that_overflows_names_its_layer():
    model = random_model(ODD, np.float32)
    with pytest.raises(FloatingPointError, match="in layer 1"):
        model.run(TOKENS, overwrites=[Overwrite(1, "resid_post", 1e30)])


# Hugging Face's model, overwritten by hooks on its modules


def hugging_face_logits(hf, tokens, overwrites, config):
    """Every activation is written where a module of Hugging Face's has it as input or output; patterns and results by an
    attention function and a product of our own, since no module has them."""
    import torch
    from transformers import AttentionInterface

    d_head = config.d_head
    some = lambda name, layer: [o for o in overwrites if (o.name, o.layer % config.n_layer) == (name, layer)]  # noqa: E731
    write = by_hand(overwrites, config)
    tensor = lambda array: torch.tensor(np.ascontiguousarray(array))  # noqa: E731
    handles = []

    def attention(module, query, key, value, attention_mask, **_):
        n_seq = query.shape[-2]
        scores = query @ key.transpose(-1, -2) / d_head**0.5
        scores = scores.masked_fill(~torch.tril(torch.ones(n_seq, n_seq, dtype=torch.bool)), -torch.inf)
        pattern = tensor(write("pattern", module.layer_idx, scores.softmax(dim=-1)[0].numpy()))
        return (pattern @ value).transpose(1, 2), None

    AttentionInterface.register("overwritten", attention)
    hf.config._attn_implementation = "overwritten"
    for layer, block in enumerate(hf.transformer.h):

        def resid_pre(module, args, layer=layer):
            return (tensor(write("resid_pre", layer, args[0][0].numpy()))[None], *args[1:])

        def qkv(module, args, out, layer=layer):
            parts = []
            for name, x in zip("qkv", out[0].numpy().reshape(-1, 3, config.n_head, d_head).transpose(1, 2, 0, 3)):
                parts.append(write(name, layer, x).transpose(1, 0, 2).reshape(len(x[0]), -1))
            return tensor(np.concatenate(parts, axis=1))[None]

        def z(module, args, layer=layer):
            x = args[0][0].numpy().reshape(-1, config.n_head, d_head).transpose(1, 0, 2)
            module.z = write("z", layer, x)
            return (tensor(module.z.transpose(1, 0, 2).reshape(len(x[0]), -1))[None],)

        def attn_out(module, args, out, layer=layer):
            out = out[0].numpy()
            if some("result", layer):
                weight = module.weight.numpy().reshape(config.n_head, d_head, -1)
                out = write("result", layer, module.z @ weight).sum(axis=0) + module.bias.numpy()
            return tensor(write("attn_out", layer, out))[None]

        def resid_mid(module, args, kept=block, layer=layer):
            kept.resid_mid = write("resid_mid", layer, args[0][0].numpy())
            return (tensor(kept.resid_mid)[None],)

        def mlp_out(module, args, out, kept=block, layer=layer):
            kept.written_mlp_out = write("mlp_out", layer, out[0].numpy())
            return tensor(kept.written_mlp_out)[None]

        def resid_post(module, args, out, kept=block, layer=layer):
            x = write("resid_post", layer, kept.resid_mid + kept.written_mlp_out)  # HF adds to the stream before ln_2
            return (tensor(x)[None], *out[1:]) if isinstance(out, tuple) else tensor(x)[None]

        handles += [
            block.register_forward_pre_hook(resid_pre), block.attn.c_attn.register_forward_hook(qkv),
            block.attn.c_proj.register_forward_pre_hook(z), block.attn.c_proj.register_forward_hook(attn_out),
            block.ln_2.register_forward_pre_hook(resid_mid), block.mlp.register_forward_hook(mlp_out),
            block.register_forward_hook(resid_post),
        ]  # fmt: skip
    try:
        with torch.no_grad():
            return hf(torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["plain", "trained-like"])
def test_live_hugging_face_with_hooks_agrees(kind):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from live_parity import hugging_face

    model = random_model(kind=kind)
    hf, names = hugging_face(ODD, model.weights, np.float64, "eager"), set()
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        overwrites = random_overwrites(rng, 50, runs=[model.run(random_tokens(ODD, N_SEQ, 3))] if seed % 2 else ())
        overwrites = overwrites if seed % 3 else overwrites[: 1 + seed]
        names |= {o.name for o in overwrites}
        theirs = hugging_face_logits(hf, TOKENS, overwrites, ODD)
        close(model.run(TOKENS, overwrites=overwrites).logits, theirs, 1e-10)
    assert names == set(ORDER)
