"""Generation: the cached version against the plain one and Hugging Face, and how a token is chosen."""

import numpy as np
import pytest
from models import ODD, random_model, random_tokens

from minigpt2 import Config
from minigpt2 import model as m
from minigpt2.generate import KeyValueCache, choose, generate, generate_plain, step

TOKENS = [3, 1, 4, 1, 5]
LONG = Config(n_layer=2, n_head=2, n_embd=12, n_ctx=300, n_vocab=29, d_mlp=20)  # longer than a block of attention


@pytest.mark.parametrize("config, cuts", [(ODD, (5, 6, 7, 13)), (ODD, (1, 4, 9)), (LONG, (140, 141, 290))])
def test_reading_in_parts_gives_the_logits_of_the_whole_text(config, cuts):
    model = random_model(config)
    tokens = random_tokens(config, cuts[-1])
    logits = m.forward(np.array(tokens), model.weights, config)
    cache, start = KeyValueCache(config, np.float64), 0
    for stop in cuts:
        got = step(tokens[start:stop], cache, model.weights, config)
        assert got.shape == (config.n_vocab,)
        np.testing.assert_allclose(got, logits[stop - 1], rtol=0, atol=1e-12)  # float64 rounding of logits of size 1
        start = stop
    assert cache.length == cuts[-1]
    assert cache.k.shape == (config.n_layer, config.n_head, config.n_ctx, config.d_head)


@pytest.mark.parametrize("choice", [{}, dict(temperature=1, seed=1), dict(temperature=2, top_k=4, top_p=0.8, seed=2)])
def test_cached_and_plain_give_the_same_tokens(choice):
    for seed in range(5):
        model = random_model(seed=seed)
        cached = list(generate(model, TOKENS, 8, **choice))
        assert cached == list(generate_plain(model, TOKENS, 8, **choice))
        assert len(cached) == 8 and all(type(token) is int for token in cached)


def test_float32_stays_float32():
    model = random_model(dtype=np.float32)
    logits = step(TOKENS, KeyValueCache(ODD, np.float32), model.weights, ODD)
    assert logits.dtype == np.float32


def test_tokens_come_one_at_a_time_and_the_prompt_is_left_alone(model):
    prompt = list(TOKENS)
    tokens = generate(model, prompt, 3)
    first = next(tokens)
    assert first == int(model.run(prompt).logits[-1].argmax())
    assert [first, *tokens] == list(generate(model, np.array(prompt), 3)) and prompt == TOKENS


def test_the_context_can_be_filled_but_not_overrun(model):
    assert len(list(generate(model, TOKENS, 8))) == 8
    with pytest.raises(ValueError, match=r"5 tokens and 9 new ones do not fit.*n_ctx = 13.*at most 8"):
        generate(model, TOKENS, 9)  # before the first token is asked for
    assert list(generate(model, TOKENS, 0)) == []


def test_stop_ends_the_text_only_if_asked(model):
    whole = list(generate(model, TOKENS, 8, temperature=1, seed=0))
    stop = whole[4]
    at = whole.index(stop)
    assert list(generate(model, TOKENS, 8, temperature=1, seed=0, stop=stop)) == whole[:at]
    assert list(generate(model, TOKENS, 8, temperature=1, seed=0, stop=[stop, whole[0]])) == []


def test_overflow_is_reported_and_not_generated_from():
    model = random_model(dtype=np.float32)
    model.weights = model.weights._replace(wpe=model.weights.wpe * np.float32(np.inf))
    with pytest.raises(FloatingPointError, match="layer 0"):
        list(generate(model, TOKENS, 2))


# How a token is chosen. Logits whose probabilities at temperature 1 are 0.5, 0.3, 0.15, 0.05 for tokens 2, 0, 3, 1.

P = np.array([0.3, 0.05, 0.5, 0.15])
LOGITS = np.log(P) + 7


def frequencies(n=4000, temperature=1.0, top_k=None, top_p=None):
    rng = np.random.default_rng(0)
    drawn = [choose(LOGITS, temperature, top_k, top_p, rng) for _ in range(n)]
    return np.bincount(drawn, minlength=4) / n


@pytest.mark.parametrize(
    "choice, expected",
    [
        (dict(), P),
        (dict(temperature=2.0), P**0.5 / (P**0.5).sum()),
        (dict(temperature=0.5), P**2 / (P**2).sum()),
        (dict(top_k=1), [0, 0, 1, 0]),
        (dict(top_k=2), [0.3 / 0.8, 0, 0.5 / 0.8, 0]),
        (dict(top_k=100), P),
        (dict(top_p=0.4), [0, 0, 1, 0]),  # the nucleus is never empty
        (dict(top_p=0.6), [0.3 / 0.8, 0, 0.5 / 0.8, 0]),  # the token that crosses the threshold belongs to it
        (dict(top_p=0.81), [0.3 / 0.95, 0, 0.5 / 0.95, 0.15 / 0.95]),
        (dict(top_p=1.0), P),
        (dict(temperature=0.5, top_p=0.6), [0, 0, 1, 0]),  # temperature first: token 2 then has 0.685
        (dict(top_k=3, top_p=0.5), [0, 0, 1, 0]),  # top-k first: token 2 then has 0.526
        (dict(temperature=1e-320), [0, 0, 1, 0]),
        (dict(temperature=0.0), [0, 0, 1, 0]),
    ],
)
def test_draws_follow_the_distribution(choice, expected):
    expected = np.asarray(expected, float)
    error = 4 * np.sqrt(expected * (1 - expected) / 4000)  # four standard deviations of a frequency; 0 where certain
    assert (np.abs(frequencies(**choice) - expected) <= error).all()


def test_the_same_seed_draws_the_same_text(model):
    texts = {tuple(generate(model, TOKENS, 8, temperature=2.0, seed=seed)) for seed in (0, 1, 2, 0, 1, 2)}
    assert len(texts) == 3


@pytest.mark.parametrize(
    "choice, message",
    [
        (dict(n=-1), "at least 0, got -1"),
        (dict(n=1.5), "got 1.5"),
        (dict(temperature=-1), "temperature must be"),
        (dict(temperature=float("nan")), "temperature must be"),
        (dict(temperature=1, top_k=0), "at least 1, got 0"),
        (dict(temperature=1, top_p=0), "above 0 and at most 1, got 0"),
        (dict(temperature=1, top_p=1.01), "got 1.01"),
        (dict(top_k=5), "temperature 0 draws nothing"),
        (dict(tokens=[]), "no tokens"),
        (dict(tokens=[11]), "token id 11 is not in the vocabulary"),
    ],
)
def test_what_means_nothing_is_refused(model, choice, message):
    with pytest.raises(ValueError, match=message):
        generate(model, **(dict(tokens=TOKENS, n=1) | choice))


@pytest.mark.reference
def test_greedy_tokens_are_hugging_faces(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from minigpt2 import GPT2
    from minigpt2.checkpoint.weights import save_folder

    config = Config(n_layer=3, n_head=4, n_embd=32, n_ctx=64, n_vocab=101, d_mlp=128)
    distinct = 0
    for seed in range(3):
        weights = random_model(config, np.float32, seed).weights
        weights = weights._replace(wpe=weights.wpe * 20)  # the positions differ so much that it does not repeat itself
        save_folder(tmp_path / str(seed), config, weights)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / str(seed)).eval()
        theirs.generation_config.eos_token_id = None
        tokens = random_tokens(config, 9, seed)
        expected = theirs.generate(torch.tensor([tokens]), max_new_tokens=55, do_sample=False, pad_token_id=0)[0]
        got = list(generate(GPT2.from_pretrained(tmp_path / str(seed)), tokens, 55))
        assert tokens + got == expected.tolist()
        distinct += len(set(got))
    assert distinct > 40, "the texts repeat so much that they compare little"
