"""Logit lens, direct logit attribution, and the pictures of both and of attention patterns."""

import warnings

import numpy as np
import pytest
from models import ODD, random_model, random_tokens
from test_overwrite import random_overwrites
from vocabulary import genuine_vocabulary

from minigpt2 import Config, Overwrite
from minigpt2 import model as m
from minigpt2.gpt2 import GPT2
from minigpt2.lens import direct_logit_attribution, likeliest, logit_lens
from minigpt2.pictures.runs import attribution_figure, lens_figure, pattern_figure
from minigpt2.pictures.style import drawable, write

TOKENS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def run():
    return random_model().run(TOKENS)


# Logit lens


def test_every_depth_is_the_stream_through_the_end_of_the_model(run):
    lens = logit_lens(run, top=3, chosen=[7, 2], keep_logits=True, rows=6)  # 4 x 5 cells: the last piece is shorter
    w, eps = run.model.weights, ODD.layer_norm_epsilon
    for depth, resid in enumerate([run.resid_pre[0], *run.resid_post]):
        expected = m.unembed(resid, w.ln_f, w.wte, eps)  # [n_seq, n_vocab]
        p = m.softmax(expected)
        np.testing.assert_allclose(lens.logits[depth], expected, rtol=0, atol=1e-13)  # other pieces, other rounding
        order = np.argsort(-expected, axis=-1)[:, :3]
        assert (lens.top_tokens[depth] == order).all()
        np.testing.assert_allclose(lens.top_logits[depth], np.take_along_axis(expected, order, -1), rtol=0, atol=1e-13)
        np.testing.assert_allclose(lens.top_probabilities[depth], np.take_along_axis(p, order, -1), rtol=0, atol=1e-13)
        np.testing.assert_allclose(lens.chosen_logits[depth], expected[:, [7, 2]], rtol=0, atol=1e-13)
        np.testing.assert_allclose(lens.chosen_probabilities[depth], p[:, [7, 2]], rtol=0, atol=1e-13)
    np.testing.assert_allclose(lens.logits[-1], run.logits, rtol=0, atol=1e-13)
    assert lens.top_tokens.shape == (ODD.n_layer + 1, len(TOKENS), 3)


def test_logits_are_kept_only_if_asked_and_types_stay():
    lens = logit_lens(random_model(dtype=np.float32).run(TOKENS))
    assert lens.logits is None and lens.chosen_logits.shape == (ODD.n_layer + 1, len(TOKENS), 0)
    assert lens.top_logits.dtype == lens.top_probabilities.dtype == np.float32
    assert "\n" not in repr(lens) and repr(lens).startswith("LogitLens(4 depths x 5 positions")


def test_likeliest_is_sorted_and_takes_the_smaller_id_where_two_are_equal():
    logits = np.array([[1.0, 5, 5, 0, 5, 2], [0, 0, 0, 0, 0, 0]])
    assert likeliest(logits, 2).tolist() == [[1, 2], [0, 1]]
    assert likeliest(logits, 1).tolist() == [[1], [0]]
    assert likeliest(logits, 6).tolist() == [[1, 2, 4, 5, 0, 3], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    "choice, message", [(dict(top=0), "from 1 to n_vocab = 11"), (dict(top=12), "got 12"), (dict(chosen=[11]), "id 11")]
)
def test_lens_refuses_what_is_not_there(run, choice, message):
    with pytest.raises(ValueError, match=message):
        logit_lens(run, **choice)


# Direct logit attribution


@pytest.mark.parametrize("kind", ["plain", "trained-like"])
@pytest.mark.parametrize("position", [0, 2, -1])
def test_the_terms_sum_to_the_logit_difference(kind, position):
    config = Config(n_layer=4, n_head=3, n_embd=24, n_ctx=16, n_vocab=40, d_mlp=50, layer_norm_epsilon=0.1)
    model = random_model(config, kind=kind)
    run = model.run(random_tokens(config, 9))
    a = direct_logit_attribution(run, 7, 31, position)
    difference = run.logits[position, 7] - run.logits[position, 31]
    size = sum(abs(value) for _, value in a.terms)  # what cancels in the sum has rounded too
    assert abs(a.total - difference) <= 1e-10 * abs(difference)
    assert abs(sum(value for _, value in a.terms) - difference) <= 1e-10 * max(abs(difference), 1e-3 * size)
    by_layer = a.embedding + a.position_embedding + a.attn.sum() + a.mlp.sum() + a.ln_f_bias
    assert abs(by_layer - difference) <= 1e-10 * max(abs(difference), 1e-3 * size)
    assert len(a.terms) == 3 + config.n_layer * (config.n_head + 2) and a.position == position % 9


def test_a_term_is_what_the_logits_lose_without_it():
    """With the layer norm's scale frozen: take one part out of the final stream, and unembed with the old scale."""
    model = random_model()
    run, w = model.run(TOKENS), model.weights
    a = direct_logit_attribution(run, 7, 2)
    x = run.resid_post[-1, -1]
    s = np.sqrt(x.var() + ODD.layer_norm_epsilon)

    def difference(x):
        logits = ((x - x.mean()) / s * w.ln_f.weight + w.ln_f.bias) @ w.wte.T
        return logits[7] - logits[2]

    d_head, c_proj = ODD.d_head, w.h[1].attn.c_proj
    head = run.z[1, 1, -1] @ c_proj.weight[d_head : 2 * d_head]
    for term, vector in (
        (a.embedding, w.wte[TOKENS[-1]]),
        (a.position_embedding, w.wpe[len(TOKENS) - 1]),
        (a.heads[1, 1], head),
        (a.attn_bias[1], c_proj.bias),
        (a.mlp[2], run.mlp_out[2, -1]),
        (a.attn[1], run.attn_out[1, -1]),
    ):
        assert term == pytest.approx(difference(x) - difference(x - vector), rel=1e-9)
    assert a.ln_f_bias == pytest.approx(w.ln_f.bias @ (w.wte[7] - w.wte[2]))


@pytest.mark.parametrize("seed", range(12))
def test_the_terms_of_a_run_with_overwrites_sum_to_its_logit_difference(seed):
    rng = np.random.default_rng(seed)
    run = random_model().run(TOKENS, overwrites=random_overwrites(rng, 12))
    for position in range(len(TOKENS)):
        a = direct_logit_attribution(run, 8, 2, position)
        assert abs(a.total - (run.logits[position, 8] - run.logits[position, 2])) < 1e-12
        assert abs(sum(value for _, value in a.terms) - a.total) < 1e-11 * max(1, *(abs(value) for _, value in a.terms))


def test_what_is_written_over_the_stream_is_a_term_of_its_own_and_everything_else_its_part_s():
    """Zero over z, v, a result, a pattern or an MLP is that part's own new value; over the stream it is nobody's."""
    model = random_model()
    for name in ("z", "v", "result", "pattern", "q", "k", "mlp_out"):
        heads = None if name == "mlp_out" else [1]
        a = direct_logit_attribution(model.run(TOKENS, overwrites=[Overwrite(1, name, 0, heads)]), 8, 2)
        assert a.overwritten == 0
        if name in ("z", "v", "result", "pattern"):
            assert a.heads[1, 1] == 0 and a.heads[1, 0] != 0
        if name == "mlp_out":
            assert a.mlp[1] == 0 and a.mlp[0] != 0
    steered = direct_logit_attribution(model.run(TOKENS, overwrites=[Overwrite(2, "resid_post", 1.5, add=True)]), 8, 2)
    assert abs(steered.overwritten) < 1e-12  # the same number everywhere is taken off by the layer norm
    vector = 5 * (model.weights.wte[8] - model.weights.wte[2])
    steered = direct_logit_attribution(
        model.run(TOKENS, overwrites=[Overwrite(2, "resid_post", vector, add=True)]), 8, 2
    )
    assert steered.overwritten > 0.1 and dict(steered.terms)["overwritten"] == steered.overwritten


def test_swapping_plus_and_minus_changes_every_sign(run):
    a, b = direct_logit_attribution(run, 7, 2), direct_logit_attribution(run, 2, 7)
    assert [value for _, value in a.terms] == [-value for _, value in b.terms] and a.total == -b.total
    assert "\n" not in repr(a) and repr(a).startswith("Attribution(logit(7) - logit(2) = ")


def test_attribution_in_float32_stays_float32():
    a = direct_logit_attribution(random_model(dtype=np.float32).run(TOKENS), 7, 2)
    assert a.heads.dtype == a.mlp.dtype == a.attn_bias.dtype == np.float32
    assert sum(value for _, value in a.terms) == pytest.approx(a.total, abs=2e-6)  # 20 terms of size 1, rounding 6e-8


@pytest.mark.parametrize(
    "question, message",
    [((7, 7), "both token 7"), ((7, 11), "id 11"), ((7, 2, 5), "no position 5.*0 to 4"), ((7, 2, -6), "position -6")],
)
def test_attribution_refuses_what_is_not_there(run, question, message):
    with pytest.raises(ValueError, match=message):
        direct_logit_attribution(run, *question)


# Pictures

WORDS = (
    'Michelle costs $5 and $6 for_x^2 \\frac "漢字との" 😀 naïve — the\n quick brown fox, 한 שלום \x1b end of it all, twice '
    "$ over"
)


@pytest.fixture(scope="module")
def worded():
    """A small model with GPT-2's own vocabulary, and a run of 40 tokens or more that are hard to draw."""
    from minigpt2.tokenizer import Tokenizer

    config = Config(n_layer=2, n_head=2, n_embd=8, n_ctx=200, n_vocab=50257, d_mlp=16)
    model = random_model(config, np.float32)
    return GPT2(config, model.weights, Tokenizer(*genuine_vocabulary()), name="some/folder_x$y$")


def texts_of(fig):
    """Every text that a figure shows, as strings."""
    from matplotlib.text import Text

    return [text.get_text() for text in fig.findobj(Text)]


def test_pictures_of_awkward_tokens_draw_without_a_warning(worded, tmp_path):
    run = worded.run(worded.encode(WORDS))
    assert len(run.tokens) >= 40
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph, a layout that did not fit
        figures = {
            "lens": lens_figure(logit_lens(run)),
            "attribution": attribution_figure(direct_logit_attribution(run, "$", " John")),
            "pattern": pattern_figure(run, 1, 0),
        }
        for name, fig in figures.items():
            write(fig, tmp_path / f"{name}.png")
    for name, fig in figures.items():
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert not any("$" in text.replace(r"\$", "") for text in texts_of(fig)), "an unescaped $ starts mathematics"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attribution.png", "lens.png", "pattern.png"]


def test_the_lens_map_shows_every_cell_in_its_place(worded):
    run = worded.run(worded.encode("Michelle Jones was a top-notch student. Michelle"))
    lens = logit_lens(run)
    ax = lens_figure(lens).axes[0]
    shown = {(int(y), int(x)): text.get_text() for text in ax.texts for x, y in [text.get_position()]}
    assert shown.keys() == set(np.ndindex(3, 11))
    for (depth, pos), text in shown.items():
        label = drawable(worded.labels([lens.top_tokens[depth, pos, 0]])[0])
        assert text == label or text.endswith("…") and label.startswith(text[:-1])
    np.testing.assert_array_equal(ax.images[0].get_array(), lens.top_probabilities[..., 0])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["embedding", "layer 0", "layer 1"]
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names[0] == "0  Michelle" and names[10] == "10  ␣Michelle" and len(set(names)) == 11


def test_the_pattern_has_destinations_down_and_sources_across(worded):
    run = worded.run(worded.encode("Michelle Jones was"))
    shown = pattern_figure(run, 1, 1).axes[0].images[0].get_array()
    assert np.array_equal(np.ma.getmaskarray(shown) | np.isnan(np.ma.getdata(shown)), ~np.tri(3, dtype=bool))
    assert shown[2, 0] == run.pattern[1, 1, 2, 0]
    with pytest.raises(ValueError, match="no head 2.0: layers are 0 to 1"):
        pattern_figure(run, 2, 0)


def test_attribution_bars_are_the_terms(worded):
    a = direct_logit_attribution(worded.run(worded.encode("Michelle Jones was")), 11, 13)
    left, right = attribution_figure(a).axes[:2]
    np.testing.assert_array_equal(left.collections[0].get_array().reshape(a.heads.shape), a.heads)
    widths = [bar.get_width() for bar in right.patches]
    assert widths == pytest.approx([*a.attn, *a.mlp, a.embedding, a.position_embedding, a.ln_f_bias])
    assert sum(widths) == pytest.approx(a.total, abs=1e-5)  # float32


def test_an_interrupted_picture_leaves_the_old_one(worded, tmp_path, monkeypatch):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    fig = pattern_figure(worded.run([1, 2]), 0, 0)
    monkeypatch.setattr("minigpt2.atomic.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(fig, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
