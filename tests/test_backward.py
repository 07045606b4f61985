"""The gradients are the derivatives: against central differences, and against torch.autograd where it is installed."""

from functools import cache

import numpy as np
import pytest
from models import ODD, cast, plain_forward, random_model, random_tokens, random_weights

from minigpt2 import Config
from minigpt2 import backward as b
from minigpt2 import model as m
from minigpt2.checkpoint.weights import expected_shapes, flatten, nest

# Central differences with step h are off by h^2 f'''/6 + eps |f| / h: with h = 1e-5, some 1e-10 + 1e-11 for functions
# of a few units, and the gradients of a tensor reach 1e-2 at least. A missing term is off by its own size.
RELATIVE = 1e-6
STEP = 1e-5
# float64 through some twenty products either way, gradients of a few units.
AUTOGRAD = 1e-10

CONFIG = ODD
BATCH = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])  # tokens stand twice, within a text and in both
MASK = np.array([[1, 0, 2, 0.5, 1], [0, 1, 1, 0.25, 3]])
ACTIVATIONS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern")


def loss_by_hand(batch, mask, weights, config):
    """The loss from the plain forward pass of the tests: no line in common with minigpt2."""
    total = 0
    for text, row in zip(batch, mask):
        logits = plain_forward(text[:-1], weights, config)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        total -= sum(w * log_p[i, text[i + 1]] for i, w in enumerate(row))
    return total / np.sum(mask)


def loss(batch, mask, weights, config):
    """The same, fast: forward is held against the plain one in test_parity.py."""
    logits = m.forward(batch[:, :-1], weights, config)
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_p, batch[:, 1:, None], axis=-1)[..., 0]
    return (losses * mask).sum() / mask.sum()


def test_the_loss_is_the_mean_surprise():
    weights = random_weights(CONFIG)
    value, _ = b.loss_and_gradients(BATCH, weights, CONFIG, mask=MASK)
    assert abs(value - loss_by_hand(BATCH, MASK, weights, CONFIG)) < 1e-12  # float64 rounding
    assert abs(value - loss(BATCH, MASK, weights, CONFIG)) < 1e-12
    assert abs(b.loss_and_gradients(BATCH, weights, CONFIG)[0] - loss(BATCH, np.ones((2, 5)), weights, CONFIG)) < 1e-12


@pytest.mark.parametrize("name", expected_shapes(CONFIG))
def test_every_weights_gradient_is_a_central_difference(name):
    """Entry by entry (60 of a large tensor, chosen by seed), and along three directions that touch all entries."""
    flat = dict(flatten(random_weights(CONFIG)))
    gradient = flatten(weight_gradients())[name]
    array = flat[name] = flat[name].copy()
    weights, rng = nest(flat), np.random.default_rng(0)

    def slope(direction):
        kept, sides = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * STEP * direction
            sides.append(loss(BATCH, MASK, weights, CONFIG))
        array[...] = kept
        return (sides[0] - sides[1]) / (2 * STEP)

    largest = abs(gradient).max()
    entries = np.arange(array.size) if array.size <= 60 else rng.choice(array.size, 60, replace=False)
    for entry in entries:
        direction = np.zeros(array.size)
        direction[entry] = 1
        error = abs(slope(direction.reshape(array.shape)) - gradient.reshape(-1)[entry])
        assert error <= RELATIVE * largest, f"{name} entry {np.unravel_index(entry, array.shape)}"
    for _ in range(3):
        direction = rng.standard_normal(array.shape) / array.size**0.5
        assert abs(slope(direction) - (gradient * direction).sum()) <= RELATIVE * largest, f"{name} as a whole"


@cache
def weight_gradients():
    return b.loss_and_gradients(BATCH, random_weights(CONFIG), CONFIG, mask=MASK)[1]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("n_seq", [1, 4])
def test_every_activations_gradient_is_a_central_difference(name, n_seq):
    """Every single entry, moved in the plain forward pass at the moment at which it is computed."""
    model = random_model(CONFIG)
    tokens, answer = random_tokens(CONFIG, n_seq, seed=4), np.random.default_rng(1).standard_normal(CONFIG.n_vocab)
    run = model.run(tokens)
    gradient = getattr(b.activation_gradients(run, answer), name)
    assert gradient.shape == getattr(run, name).shape
    largest = max(1e-3, abs(gradient).max())  # with one token, q, k and the pattern's row of one entry do nothing

    def slope(index):
        sides = []
        for sign in (1, -1):

            def moved(what, layer, x, sign=sign):
                if (what, layer) != (name, index[0]):
                    return x
                x = x.copy()
                x[index[1:]] += sign * STEP
                return x

            sides.append(plain_forward(tokens, model.weights, CONFIG, moved)[-1] @ answer)
        return (sides[0] - sides[1]) / (2 * STEP)

    everything = list(np.ndindex(gradient.shape))
    chosen = everything if len(everything) <= 120 else np.random.default_rng(2).permutation(everything)[:120]
    for index in map(tuple, chosen):
        assert abs(slope(index) - gradient[index]) <= RELATIVE * largest, f"{name}{list(index)}"


@pytest.mark.parametrize("kind, eps", [("plain", 0.1), ("trained-like", 1e-5)])
def test_directional_derivatives_at_other_scales(kind, eps):
    """eps 0.1 shows where it stands; large gains and outliers show terms that are small elsewhere."""
    config = Config(**{**vars(CONFIG), "layer_norm_epsilon": eps})
    weights = random_weights(config, kind=kind)
    gradients = flatten(b.loss_and_gradients(BATCH, weights, config)[1])
    for name, array in flatten(weights).items():
        flat, direction = dict(flatten(weights)), np.random.default_rng(3).standard_normal(array.shape)
        direction *= STEP / np.linalg.norm(direction)
        sides = []
        for sign in (1, -1):
            flat[name] = array + sign * direction
            sides.append(loss(BATCH, np.ones((2, 5)), nest(flat), config))
        error = abs((sides[0] - sides[1]) - 2 * (gradients[name] * direction).sum()) / (2 * STEP)
        # third derivatives grow with the cube of the scale of trained-like weights: f''' h^2 is 1e4 times larger there
        assert error <= RELATIVE * max(1e-3, np.linalg.norm(gradients[name])), name


def test_a_mask_weighs_the_predictions():
    weights = random_weights(CONFIG)
    together = flatten(b.loss_and_gradients(BATCH, weights, CONFIG, mask=MASK)[1])
    summed = {name: np.zeros_like(array) for name, array in together.items()}
    for i in range(2):
        for j in range(5):
            one = np.zeros_like(MASK)
            one[i, j] = 1
            for name, array in flatten(b.loss_and_gradients(BATCH, weights, CONFIG, mask=one)[1]).items():
                summed[name] += MASK[i, j] / MASK.sum() * array
    for name in together:  # rounding of ten additions of gradients below 10
        np.testing.assert_allclose(together[name], summed[name], rtol=0, atol=1e-13, err_msg=name)


def test_masked_tokens_at_the_end_change_nothing():
    weights, mask = random_weights(CONFIG), np.array([[1, 1, 1, 0, 0]] * 2)
    other = BATCH.copy()
    other[:, 4:] = 6
    first, second = (b.loss_and_gradients(batch, weights, CONFIG, mask=mask) for batch in (BATCH, other))
    assert first[0] == second[0]
    for (name, x), (_, y) in zip(flatten(first[1]).items(), flatten(second[1]).items()):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-15, err_msg=name)  # the same sums, with zeros in other places


def test_arrays_to_fill_are_filled_whatever_they_held():
    weights = random_weights(CONFIG)
    fresh = b.loss_and_gradients(BATCH, weights, CONFIG)[1]
    used = cast(weights, np.float64)
    for array in flatten(used).values():
        array[...] = np.nan
    _, into = b.loss_and_gradients(BATCH, weights, CONFIG, into=used)
    assert into is used
    for (name, x), (_, y) in zip(flatten(fresh).items(), flatten(into).items()):
        np.testing.assert_array_equal(x, y, err_msg=name)


def test_tied_weights_gather_both_gradients():
    """Tokens that are only predicted get a gradient through the unembedding, tokens that are read a second one."""
    gradient = weight_gradients().wte
    assert (abs(gradient).max(axis=1) > 0).all(), "every row of the unembedding takes part in every softmax"
    unread = sorted(set(range(11)) - set(BATCH[:, :-1].ravel()))
    untied = b.zeros_like(random_weights(CONFIG))
    tokens, weights = BATCH[:, :-1], random_weights(CONFIG)
    b.embed_backward(np.ones((2, 5, 14)), tokens, untied)
    assert unread and (untied.wte[unread] == 0).all()
    counts = np.bincount(tokens.ravel(), minlength=11)
    np.testing.assert_array_equal(untied.wte, np.repeat(counts[:, None], 14, axis=1), "a token's row, once per place")
    assert weights.wte.shape == untied.wte.shape


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_keep_the_dtype(dtype):
    weights = random_weights(CONFIG, dtype)
    for name, array in flatten(b.loss_and_gradients(BATCH, weights, CONFIG, mask=MASK)[1]).items():
        assert array.dtype == dtype, name
    run = random_model(CONFIG, dtype).run([1, 2, 3])
    for name, array in vars(b.activation_gradients(run, np.eye(11)[3])).items():
        assert array.dtype == dtype, name


def test_float32_gradients_are_float64_gradients_rounded():
    """Rounding of float32, 6e-8, grows through some thirty operations on numbers of a few units."""
    wide = flatten(weight_gradients())
    narrow = flatten(b.loss_and_gradients(BATCH, random_weights(CONFIG, np.float32), CONFIG, mask=MASK)[1])
    for name, array in narrow.items():
        assert abs(array - wide[name]).max() <= 100 * np.finfo(np.float32).eps * abs(wide[name]).max(), name


def test_nothing_is_changed_that_was_given():
    model, tokens = random_model(CONFIG), BATCH.copy()
    dlogits = np.random.default_rng(0).standard_normal(11)
    kept, run = dlogits.copy(), model.run([1, 2, 3])
    b.activation_gradients(run, dlogits)
    b.loss_and_gradients(tokens, model.weights, CONFIG, mask=MASK)  # weights are read-only: writing would raise
    np.testing.assert_array_equal(dlogits, kept)
    np.testing.assert_array_equal(tokens, BATCH)


BAD_BATCHES = {
    "a flat list": ([1, 2, 3], None, "integers"),
    "numbers that are no ids": ([[1.5, 2.5]], None, "integers"),
    "one token": ([[1]], None, "n_seq from 2"),
    "a negative id": ([[1, -2, 3]], None, "-2 to 3"),
    "an id too high": ([[1, 11, 3]], None, "1 to 11, and the model 0 to 10"),
    "a mask of another shape": ([[1, 2, 3]], [[1, 1, 1]], r"\[1, 2\] predictions"),
    "a mask that weighs nothing": ([[1, 2, 3]], [[0, 0]], "sum above 0"),
}


@pytest.mark.parametrize("batch, mask, message", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_bad_batch_is_refused_in_one_sentence(batch, mask, message):
    with pytest.raises(ValueError, match=message):
        b.loss_and_gradients(batch, random_model(CONFIG).weights, CONFIG, mask=mask)


def test_a_gradient_that_there_is_not_is_refused():
    run = random_model(CONFIG).run([1, 2, 3])
    with pytest.raises(ValueError, match="no gradient 'mlp_pre'"):
        b.activation_gradients(run, np.ones(11), keep=["mlp_pre"])
    with pytest.raises(ValueError, match=r"\[11\], got \[3, 11\]"):
        b.activation_gradients(run, np.ones((3, 11)))


@pytest.mark.parametrize("n_q, n_k, block", [(5, 5, 2), (5, 5, 5), (7, 7, 3), (3, 8, 2), (1, 4, 128)])
def test_attention_backward_in_blocks_is_attention_backward(n_q, n_k, block):
    """Also where the queries are the last of more keys."""
    rng = np.random.default_rng(n_q)
    dz, q = rng.standard_normal((2, 2, 3, n_q, 7))
    k, v = rng.standard_normal((2, 2, 3, n_k, 7))
    whole = b.attend_backward(dz, q, k, v, size=n_q)
    for ours, theirs in zip(b.attend_backward(dz, q, k, v, block), whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)  # the same sums of ten numbers in another order


@pytest.mark.reference
@pytest.mark.parametrize("kind", ["plain", "trained-like"])
def test_live_torch_autograd_agrees(kind):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from live_parity import hugging_face

    weights = random_weights(CONFIG, kind=kind)
    value, ours = b.loss_and_gradients(BATCH, weights, CONFIG, mask=MASK)
    hf = hugging_face(CONFIG, weights, np.float64, "eager")
    logits = hf(torch.tensor(BATCH[:, :-1]), use_cache=False).logits  # its own loss would be computed in float32
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), torch.tensor(BATCH[:, 1:]), reduction="none")
    theirs = (losses * torch.tensor(MASK)).sum() / MASK.sum()
    theirs.backward()
    assert abs(value - theirs.item()) <= AUTOGRAD
    parameters = {name.removeprefix("transformer."): p.grad.numpy() for name, p in hf.named_parameters()}
    for name, array in flatten(ours).items():
        assert abs(array - parameters[name]).max() <= AUTOGRAD * max(1, abs(array).max()), name


@pytest.mark.reference
def test_live_torch_autograd_agrees_on_activations():
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from live_parity import hugging_face

    model, tokens = random_model(CONFIG), random_tokens(CONFIG, 13)
    hf = hugging_face(CONFIG, model.weights, np.float64, "eager")
    dlogits = np.random.default_rng(5).standard_normal(11)
    out = hf(torch.tensor([tokens]), output_hidden_states=True, output_attentions=True, use_cache=False)
    stream = out.hidden_states[:-1]  # the last has been through ln_f
    gradients = torch.autograd.grad(out.logits[0, -1] @ torch.tensor(dlogits), [*stream, *out.attentions])
    ours = b.activation_gradients(model.run(tokens), dlogits)
    for layer in range(CONFIG.n_layer):
        assert abs(ours.resid_pre[layer] - gradients[layer][0].numpy()).max() <= AUTOGRAD
        assert abs(ours.pattern[layer] - gradients[CONFIG.n_layer + layer][0].numpy()).max() <= AUTOGRAD
