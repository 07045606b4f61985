"""Careless calls: a right result, or one sentence that names what was given. Never a traceback out of NumPy."""

import array
import decimal
import fractions
import math

import numpy as np
import pytest
from fuzz import EFFORT, answer, little_memory  # noqa: F401 - a fixture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import ODD, random_model, random_tokens
from vocabulary import tiny_vocabulary

from minigpt2 import GPT2
from minigpt2.generate import generate, generate_plain
from minigpt2.lens import direct_logit_attribution, logit_lens
from minigpt2.tokenizer import Tokenizer
from patching import METRICS, SITES, PromptPair, attribute, sweep, sweep_one_by_one

pytestmark = pytest.mark.slow

MODEL = random_model(dtype=np.float32)
HUGE = 10**300
SEEDED = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

NUMBERS = st.one_of(
    st.integers(), st.integers(-2, 14), st.booleans(), st.floats(), st.none(), st.complex_numbers(),
    st.text(max_size=3),
    st.sampled_from([HUGE, -HUGE, 2**63, 2**64, 2**31, np.int8(3), np.uint64(3), np.float32(1), np.bool_(True), b"3",
    "3"]),
    st.sampled_from([fractions.Fraction(3), decimal.Decimal(3), object, np.datetime64(3, "s"), np.timedelta64(3, "s"),
    ...]),
)  # fmt: skip
LISTS = st.one_of(
    st.lists(st.integers(0, 10), max_size=14),
    st.lists(NUMBERS, max_size=5),
    st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=3), max_leaves=8),
    st.dictionaries(st.integers(0, 3), st.integers(0, 3), max_size=3),
)

DTYPES = "? b B h H i I l L q Q e f d g F D G S3 U3 V3 O M8[s] m8[s] >i4 >u2 >f8 i4,i4"
ARRAYS = [np.zeros(3).astype(dtype) for dtype in DTYPES.split() if dtype not in ("V3", "i4,i4")] + [
    np.zeros(3, "V3"), np.zeros(3, "i4,i4"), np.zeros((1, 3), int), np.zeros((), int), np.zeros(0, int), np.zeros(0),
    np.zeros((0, 3), int), np.arange(13)[::-1], np.arange(26)[::2] // 3, np.broadcast_to(3, 5),
    np.array([1, 2, 3], object), np.array([1, "a"], object),
]  # fmt: skip
OTHERS = [
    None, 3, 3.5, "abc", b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("i", [1, 2]), range(5), {1, 2},
    {1: 2}, iter([1, 2]), (i for i in (1, 2)), object(), int, len, ..., NotImplemented, [[]], [[1], [2, 3]], [1, [2]],
    [None],
    [True], [1, True], [0.0], [np.nan], ["1"], [b"1"], [HUGE], [-1], [11], [1] * 14, [0] * 10**6, "🙂" * 5,
    [np.array([1])], [{}],
    [[[[[[[1]]]]]]],
]  # fmt: skip


def deep(n):
    tokens = 1
    for _ in range(n):
        tokens = [tokens]
    return tokens


# Tokens


def check_run(tokens):
    run, refusal = answer("tokens", MODEL.run, tokens)
    if refusal:
        return
    plain = [int(token) for token in (tokens.tolist() if hasattr(tokens, "tolist") else tokens)]
    assert (
        run.tokens == tuple(plain) and 1 <= len(plain) <= ODD.n_ctx and all(0 <= token < ODD.n_vocab for token in plain)
    )
    np.testing.assert_array_equal(run.logits, MODEL.run(plain).logits)


@settings(max_examples=400 * EFFORT, **SEEDED)
@given(LISTS)
def test_any_tokens(tokens):
    check_run(tokens)


def test_odd_tokens():
    for tokens in [*ARRAYS, *OTHERS, *map(deep, (10, 63, 64, 65, 100))]:
        check_run(tokens)
        for f in (generate, generate_plain):
            found, refusal = answer("generate", lambda: list(f(MODEL, tokens, 1)))  # noqa: B023
            assert refusal or 0 <= found[0] < ODD.n_vocab


def test_integers_of_any_width_are_tokens():
    for dtype in "bBhHiIlLqQ":
        for text in (np.arange(5, dtype=dtype), np.arange(5, dtype=np.dtype(dtype).newbyteorder())):
            np.testing.assert_array_equal(MODEL.run(text).logits, MODEL.run(range(5)).logits)
            both = MODEL.run_batch([text, [4, 3, 2, 1, 0]])  # NumPy makes floats of uint64 and int64 together
            np.testing.assert_allclose(both[0].logits, MODEL.run(range(5)).logits, rtol=0, atol=1e-5)


@settings(max_examples=100 * EFFORT, **SEEDED)
@given(st.lists(LISTS, max_size=3) | LISTS)
def test_any_batch(texts):
    runs, refusal = answer("batches", MODEL.run_batch, texts)
    assert refusal or len(runs) == len(texts)


def test_odd_batches():
    for texts in [*ARRAYS, *OTHERS]:
        answer("batches", MODEL.run_batch, texts)


# A vocabulary's methods


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    config = type(ODD)(**{**ODD.__dict__, "n_vocab": 264, "n_ctx": 40})
    model = random_model(config, np.float32)
    return GPT2(config, model.weights, Tokenizer(*tiny_vocabulary(tmp_path_factory.mktemp("tiny"))), name="reader")


@settings(max_examples=150 * EFFORT, **SEEDED)
@given(LISTS)
def test_any_ids_are_decoded(reader, tokens):
    for f in (reader.decode, reader.tokenizer.visible_tokens, reader.tokenizer.check_ids):
        answer("decoding", f, tokens)


def test_odd_ids_are_decoded(reader):
    for tokens in [*ARRAYS, *OTHERS]:
        for f in (reader.decode, reader.tokenizer.token_bytes, reader.tokenizer.visible):
            answer("decoding", f, tokens)


@settings(max_examples=150 * EFFORT, **SEEDED)
@given(st.text(st.characters(exclude_categories=()), max_size=20) | NUMBERS)
def test_any_text_is_encoded(reader, text):
    tokens, refusal = answer("encoding", reader.encode, text)
    assert refusal or reader.decode(tokens) == text
    answer("encoding", reader.tokenizer.single_token, text)


# Prompt pairs

TEXTS = [
    "the a", "the b", "the", "", " ", "a" * 99, "\ud800", "\0", "🙂", None, 3, b"the", ["the"], ("the",), object(),
    math.nan,
]  # fmt: skip
ANSWERS = [
    (" a", " the"), (" the", " a"), ("a", "a"), ("the", "them"), ("", "a"), ("a",), ("a", "b", "c"), (), "ab", "a",
    None, 3, ("a", None),
    (3, 4), (" a", 4), [" a", " the"], {" a", " the"}, {" a": 1, " the": 2}, b"ab", (b"a", b"b"), (("a",), ("b",)),
    ("\ud800", "a"),
    iter(["a", "b"]), object(), np.array(["a", "b"]), ("<|endoftext|>", "a"),
]  # fmt: skip


def check_pair(model, make):
    pair, refusal = answer("pairs", make)
    if refusal:
        return
    result, refusal = answer("pairs", sweep, model, pair, "resid_post", layers=[0])
    assert refusal or result.tokens.clean != result.tokens.corrupted and len(set(result.tokens.answers)) == 2
    answer("pairs", repr, pair)


@pytest.mark.parametrize("bos", [False, True])
def test_pairs_of_odd_texts(reader, bos):
    for clean in TEXTS:
        for corrupted in TEXTS:
            check_pair(reader, lambda: PromptPair(clean, corrupted, (" a", " the"), bos))  # noqa: B023


def test_pairs_of_odd_answers(reader):
    for answers in ANSWERS:
        check_pair(reader, lambda: PromptPair("the a", "the b", answers))  # noqa: B023
        check_pair(MODEL, lambda: PromptPair("the a", "the b", answers))  # noqa: B023


@settings(max_examples=200 * EFFORT, **SEEDED)
@given(LISTS, LISTS, st.just((1, 2)) | LISTS)
def test_pairs_of_any_tokens(clean, corrupted, answers):
    check_pair(MODEL, lambda: PromptPair.from_tokens(clean, corrupted, answers))


def test_pairs_of_odd_tokens():
    for odd in [*ARRAYS, *OTHERS, *ANSWERS]:
        for parts in ((odd, [1, 2, 3], (1, 2)), ([1, 2, 3], odd, (1, 2)), ([1, 2, 3], [1, 2, 4], odd)):
            check_pair(MODEL, lambda: PromptPair.from_tokens(*parts))  # noqa: B023


def test_what_is_no_pair():
    for pair in (None, ("a", "b"), ("a", "b", ("c", "d")), "a", 3, {"clean": "a"}, PromptPair):
        for some_sweep in (sweep, sweep_one_by_one, attribute):
            assert "PromptPair" in answer("pairs", some_sweep, MODEL, pair)[1]


# Sweeps

PAIR = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 5], (2, 8))
SWEEPS = (sweep, sweep_one_by_one, attribute)


class Callable:
    def __call__(self, logits):
        return logits[0]


ODD_NUMBERS = [
    None, True, 0, -1, 1.5, math.nan, math.inf, -math.inf, 1e30, 1e38, -1e38, 1e300, 5e-324, HUGE, -HUGE, "1", "nan",
    "", b"1", 1j, [], [1],
    (1,), {}, object(), int, np.float16(1), np.float32(np.inf), np.float64(2), np.int8(1), np.longdouble(1),
    np.array(1.0),
    np.array([1.0, 2.0]), np.array(None), np.bool_(True), fractions.Fraction(1, 2), decimal.Decimal(1), ..., range(3),
]  # fmt: skip
ODD_INDICES = [
    *ODD_NUMBERS, "all", "last", [0], [-1], [99], [-99], [0, 0], [0, -3], [0.0], [0.5], [None], ["0"], [[0]], [True],
    [HUGE], [-HUGE], "01",
    [math.nan], [math.inf], [1j], [2**63], range(2), range(10**12), {0, 1}, {0: 1}, np.array([0, 1]), np.array([[0]]),
    np.array([], int), np.array([0.0]), np.array(["0"]), np.zeros(10**6, int), slice(None), [slice(None)],
    [np.int8(1)], [np.array([1])],
]  # fmt: skip
ODD_METRICS = [
    *ODD_NUMBERS, "accuracy", "Normalised", "logit_difference ", Callable(), Callable, len, print, lambda: 1,
    lambda a, b: 1, np.max, np.argmax,
    lambda x: np.nan, lambda x: np.inf, lambda x: -np.inf, lambda x: float("nan"), lambda x: None, lambda x: x,
    lambda x: x[:1],
    lambda x: [x[0]], lambda x: "1", lambda x: True, lambda x: x[0] > 0, lambda x: 1j, lambda x: HUGE,
    lambda x: 2**63, lambda x: 1e300,
    lambda x: np.timedelta64(1, "s"), lambda x: fractions.Fraction(1), lambda x: decimal.Decimal(1),
    lambda x: np.array(2), lambda x: {},
    lambda x: np.float16(1), lambda x: iter([1]), lambda x: np.nan if x[0] > 0 else 1.0,
    lambda x: x.sum() / 0 if False else int(x[0] * 100),
]  # fmt: skip
CHOICES = {
    "site": [*ODD_NUMBERS, "resid", "Z", "resid_post ", "all"],
    "direction": [*ODD_NUMBERS, "denoise", "Noising"],
    "alpha": ODD_NUMBERS,
    "metric": ODD_METRICS,
    "layers": ODD_INDICES,
    "heads": ODD_INDICES,
    "positions": ODD_INDICES,
}


def is_large(alpha):
    return isinstance(alpha, float) and abs(alpha) > 1e9


class Raised(Exception):
    """What a user's metric may raise: it is theirs, and passes through."""


def sweeps(choices):
    """Each kind of sweep of the same choices: all are refused, or all end in numbers; both sweeps in the same."""
    results = []
    for some_sweep in SWEEPS:
        if some_sweep is attribute and (callable(choices.get("metric")) or is_large(choices.get("alpha"))):
            continue  # needs a derivative; is off where the model bends
        results.append(answer("sweeps", some_sweep, MODEL, PAIR, **choices))
    (one_pass, says), (_, plain_says) = results[:2]
    assert says == plain_says and len({refusal is None for _, refusal in results}) == 1, results
    if one_pass is not None:
        for result, _ in results:
            assert (
                np.isfinite(result.values).all()
                and math.isfinite(result.clean_value)
                and result.values.dtype == np.float32
            )
        scale = np.abs(one_pass.values).max()
        np.testing.assert_allclose(one_pass.values, results[1][0].values, rtol=0, atol=1e-4 * max(1, scale))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_every_odd_value_of_every_choice(name, site):
    if name == "site" and site == "z":
        return
    for value in CHOICES[name]:
        try:
            sweeps({"site": site} | {name: value})
        except TypeError as error:  # from the user's own function, called with one argument
            assert name == "metric" and callable(value), (value, error)


@settings(max_examples=100 * EFFORT, **SEEDED)
@given(
    st.fixed_dictionaries(
        {"site": st.sampled_from(list(SITES))},
        optional={
            "direction": st.sampled_from(["denoising", "noising"]),
            "alpha": st.floats(width=32) | st.integers(-3, 3),
            "metric": st.sampled_from([*METRICS]),
            "layers": st.lists(st.integers(-4, 3), max_size=3),
            "heads": st.lists(st.integers(-3, 2), max_size=2),
            "positions": st.lists(st.integers(-6, 5), max_size=3) | st.just("all"),
        },
    )
)
def test_any_choices(choices):
    for some_sweep in (sweep, sweep_one_by_one):
        result, refusal = answer("sweeps", some_sweep, MODEL, PAIR, **choices)
        assert refusal or np.isfinite(result.values).all()


@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one])
def test_a_metric_that_is_no_number_somewhere_names_the_patch(some_sweep):
    calls = []

    def metric(logits):
        calls.append(1)
        return math.nan if len(calls) == 3 else 1.0  # the clean run, the corrupted run, the first patch

    refusal = answer("sweeps", some_sweep, MODEL, PAIR, "z", metric=metric, layers=[1], heads=[1], positions=[3])[1]
    assert "metric" in refusal and "nan" in refusal and "layer 1, head 1, position 3" in refusal
    for n, run in ((0, "clean"), (1, "corrupted")):
        calls[:] = [1] * (2 - n)
        assert f"the {run} run" in answer("sweeps", some_sweep, MODEL, PAIR, metric=metric)[1]


@pytest.mark.parametrize("some_sweep", [sweep, sweep_one_by_one])
def test_what_a_metric_raises_is_the_users_and_what_it_writes_stays_with_it(some_sweep):
    def fails(logits):
        raise Raised

    with pytest.raises(Raised):
        some_sweep(MODEL, PAIR, metric=fails)

    def sorts(logits):
        logits.sort()
        return logits[0]

    with pytest.raises(ValueError, match="read-only"):
        some_sweep(MODEL, PAIR, metric=sorts, keep_logits=True)


def test_odd_slopes_of_a_metric():
    def metric(logits):
        return logits[2] - logits[3]

    good, nothing = np.zeros(ODD.n_vocab), np.full(ODD.n_vocab, np.nan)
    good[[2, 3]] = 1, -1
    for slope in (
        good, good.astype(np.float32), good.tolist(), None, 1.0, "a", [1], good[:5], good[None], nothing,
        nothing + np.inf, good * 1e300,
        good * 1j, good.astype(object), np.array(None), {}, good.astype(int),
    ):  # fmt: skip
        metric.slope = lambda logits, slope=slope: slope
        result, refusal = answer("slopes", attribute, MODEL, PAIR, metric=metric)
        assert refusal or np.isfinite(result.values).all()
    for metric.slope in (good, 3, "a"):  # no function
        assert answer("slopes", attribute, MODEL, PAIR, metric=metric)[1]


# Generating, resuming, the lenses

ODD_COUNTS = [*ODD_NUMBERS, 2, 12, 13, 10**6, 2**31, 2**63, [0], np.int64(2)]


@pytest.mark.parametrize("name", ["n", "temperature", "top_k", "top_p", "seed", "stop"])
def test_odd_choices_of_generate(name):
    lists = [[11], [-1], [3, 4], [[1]], [1, [2]], {1}, iter([1]), np.arange(3)]
    for value in [*ODD_COUNTS, 0.5, 1.0, 1e-300, 1e-8, 1 + 1e-9, "3", *lists]:
        for others in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3, "top_p": 0.5, "seed": 1}):
            choices = {"n": 3} | others | {name: value}
            found, refusal = answer("generate", lambda: list(generate(MODEL, [1, 2], **choices)))  # noqa: B023
            assert refusal or all(0 <= token < ODD.n_vocab for token in found)
            plain, plain_refusal = answer("generate", lambda: list(generate_plain(MODEL, [1, 2], **choices)))  # noqa: B023
            assert (plain is None) is (found is None) and (plain_refusal is None) is (refusal is None)


STREAM = MODEL.run(random_tokens(ODD, 5)).resid_pre[1]
ODD_STREAMS = [
    *ODD_NUMBERS, *OTHERS[:25], STREAM * np.inf, STREAM * np.nan, STREAM.astype(complex), STREAM.astype(object),
    STREAM.astype(str),
    STREAM.astype(np.float64) * 1e300, STREAM * np.float32(1e18), STREAM * np.float32(1e30), STREAM[0], STREAM[:0],
    STREAM[:, :7], STREAM.T,
    np.zeros((0, 5, 14)), np.zeros((2, 0, 5, 14)), np.zeros((14, 14)), np.broadcast_to(np.float32(0), (5, 14)),
    STREAM.tolist(),
    np.full((5, 14), 1e308), np.full((5, 14), np.finfo(np.float32).max), np.zeros((5, 14), bool),
    np.zeros((5, 14), "M8[s]"),
]  # fmt: skip


def test_odd_calls_of_resume():
    for at in ("resid_pre", "resid_mid"):
        for stream in ODD_STREAMS:
            logits, refusal = answer("resume", MODEL.resume, stream, 1, at)
            assert refusal or np.isfinite(logits).all() and logits.shape == (*np.shape(stream)[:-1], ODD.n_vocab)
        for layer in [*ODD_COUNTS, 3, 4]:
            answer("resume", MODEL.resume, STREAM, layer, at)
    for at in [*ODD_NUMBERS, "resid_post"]:
        assert answer("resume", MODEL.resume, STREAM, 1, at)[1]


def test_odd_calls_of_the_lenses():
    run = MODEL.run(random_tokens(ODD, 5))
    for value in ODD_COUNTS:
        answer("lenses", logit_lens, run, top=value)
        answer("lenses", direct_logit_attribution, run, value, 2)
        answer("lenses", direct_logit_attribution, run, 1, 2, position=value)
    for value in [*ARRAYS, *OTHERS]:
        answer("lenses", logit_lens, run, chosen=value)


# Loading


def test_odd_names_and_revisions(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    names = [
        "", " ", ".", "..", "/", "\0", "a\0b", "~", "~nobody/x", "a" * 5000, "a/b/c", "a/b", "-", "--help", "\n",
        "a\nb", "\ud800", "é", "gpt2\n",
        "../gpt2", "https://huggingface.co/gpt2", "file:///etc", "C:\\gpt2", "con", "/dev/null", "/dev/zero",
        "/proc/self/mem", "gpt2/..",
        str(tmp_path / "no"), b"gpt2", b"\xff", tmp_path,
    ]  # fmt: skip
    for name in [*names, *ODD_NUMBERS]:
        assert answer("names", GPT2.from_pretrained, name)[1]
    for revision in [*names[:-1], *ODD_NUMBERS[1:]]:
        assert answer("names", GPT2.from_pretrained, "gpt2", revision=revision)[1]
        assert answer("names", GPT2.from_pretrained, tmp_path, revision=revision)[1]
    for dtype in [*ODD_NUMBERS[1:], "float16", "f4,f4", "<f8x", np.dtype("V8"), "O", float, np.float32]:
        assert answer("names", GPT2.from_pretrained, tmp_path, dtype=dtype)[1]
