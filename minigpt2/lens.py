"""Reading the residual stream in the vocabulary's terms, from one Run and without another forward pass.

logit_lens asks of every layer and position: which token would the model predict if it stopped here? Source:
nostalgebraist 2020, "interpreting GPT: the logit lens". direct_logit_attribution asks what adds to the answer: the stream
is a sum, and with the final layer norm's scale held fixed the logits are linear in it, so a difference of two logits is
a sum over everything that wrote into the stream. Source: Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits".

Both say what is written directly into the last layer norm, not what a layer does through those above it: that is
patching's question. pictures.py draws all of this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import model as m
from .gpt2 import Run, read_only


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """The predictions at every depth: row 0 is the embedding, row i + 1 layer i's resid_post, the last the model's."""

    run: Run
    top_tokens: np.ndarray  # [n_layer + 1, n_seq, top], likeliest first
    top_logits: np.ndarray  # [n_layer + 1, n_seq, top]
    top_probabilities: np.ndarray  # [n_layer + 1, n_seq, top]
    chosen: tuple[int, ...]  # token ids
    chosen_logits: np.ndarray  # [n_layer + 1, n_seq, len(chosen)]
    chosen_probabilities: np.ndarray  # [n_layer + 1, n_seq, len(chosen)]
    logits: np.ndarray | None  # [n_layer + 1, n_seq, n_vocab] if asked for

    def __repr__(self) -> str:
        n_depths, n_seq, top = self.top_tokens.shape
        ends = ", ".join(map(repr, self.run.model.labels(self.top_tokens[:, -1, 0])))
        return f"LogitLens({n_depths} depths x {n_seq} positions, top {top}; at the last position: {ends})"


def logit_lens(
    run: Run, top: int = 1, chosen: Sequence[int] = (), keep_logits: bool = False, rows: int = 128
) -> LogitLens:
    """Unembed the stream of every layer: the final layer norm and wte, as if the layers above did not exist.

    Keeps the `top` likeliest tokens of each cell and the logits of the `chosen` token ids. keep_logits keeps all logits
    (n_vocab numbers a cell: 28 MB for 11 tokens of GPT-2 small, 2.7 GB for 1024); without it no more than `rows` cells'
    logits are held at a time. Raises ValueError for tokens that the model does not have.
    """
    model, c = run.model, run.model.config
    if type(top) is bool or not isinstance(top, (int, np.integer)) or not 1 <= top <= c.n_vocab:
        raise ValueError(f"top must be from 1 to n_vocab = {c.n_vocab}, got {top!r}")
    chosen = [] if isinstance(chosen, (tuple, list)) and not chosen else model.check_tokens(chosen).tolist()
    stream = np.concatenate([run.resid_pre[:1], run.resid_post])  # [n_layer + 1, n_seq, n_embd]
    cells = stream.reshape(-1, c.n_embd)
    kept = {
        "top_tokens": np.empty((len(cells), top), np.int64),
        "top_logits": np.empty((len(cells), top), model.dtype),
        "top_probabilities": np.empty((len(cells), top), model.dtype),
        "chosen_logits": np.empty((len(cells), len(chosen)), model.dtype),
        "chosen_probabilities": np.empty((len(cells), len(chosen)), model.dtype),
    }
    if keep_logits:
        kept["logits"] = np.empty((len(cells), c.n_vocab), model.dtype)
    for start in range(0, len(cells), rows):
        at = slice(start, start + rows)
        logits = m.unembed(cells[at], model.weights.ln_f, model.weights.wte, c.layer_norm_epsilon)  # [rows, n_vocab]
        probabilities = m.softmax(logits)
        best = likeliest(logits, top)  # [rows, top]
        kept["top_tokens"][at] = best
        for what, numbers in (("logits", logits), ("probabilities", probabilities)):
            kept[f"top_{what}"][at] = np.take_along_axis(numbers, best, axis=-1)
            kept[f"chosen_{what}"][at] = numbers[:, chosen]
        if keep_logits:
            kept["logits"][at] = logits
    shaped = {name: read_only(array.reshape(*stream.shape[:2], -1)) for name, array in kept.items()}
    return LogitLens(run, chosen=tuple(chosen), logits=shaped.pop("logits", None), **shaped)


def likeliest(logits, top):
    """The ids of the `top` largest logits of each row, largest first; the smaller id first where two are equal."""
    if top == 1:
        return np.argmax(logits, axis=-1)[..., None]
    at_least = np.partition(logits, -top, axis=-1)[..., -top, None]
    best = np.empty((len(logits), top), np.int64)
    for row, (values, least) in enumerate(zip(logits, at_least)):
        ids = np.flatnonzero(values >= least)
        best[row] = ids[np.argsort(-values[ids], kind="stable")][:top]
    return best


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """What everything that wrote into one position's stream adds to logit(plus) - logit(minus).

    embedding, position_embedding, heads, attn_bias, mlp, overwritten and ln_f_bias sum to `total`, the run's own logit
    difference.
    """

    run: Run
    plus: int
    minus: int
    position: int
    total: float
    embedding: float  # the token's row of wte
    position_embedding: float  # the position's row of wpe
    heads: np.ndarray  # [n_layer, n_head]: each head's z through its rows of c_proj
    attn_bias: np.ndarray  # [n_layer]: c_proj's bias, which belongs to no head
    mlp: np.ndarray  # [n_layer]
    ln_f_bias: float
    overwritten: float = 0.0  # what overwrites of the stream or of attn_out put in, less what they took out

    def __repr__(self) -> str:
        terms = sorted(self.terms, key=lambda term: -abs(term[1]))[:4]
        largest = ", ".join(f"{name} {value:+.2f}" for name, value in terms)
        return f"Attribution({self.question} = {self.total:+.3f} at position {self.position}; largest: {largest})"

    @property
    def question(self) -> str:
        plus, minus = self.run.model.labels([self.plus, self.minus])
        return f"logit({plus}) - logit({minus})"

    @property
    def attn(self) -> np.ndarray:
        """Each layer's attention, [n_layer]: its heads and its bias."""
        return self.heads.sum(axis=1) + self.attn_bias

    @cached_property
    def terms(self) -> list[tuple[str, float]]:
        """Every term with a name, in the order in which the stream receives them; they sum to `total`."""
        terms = [("token embedding", self.embedding), ("position embedding", self.position_embedding)]
        for layer, heads in enumerate(self.heads):
            terms += [(f"head {layer}.{head}", float(value)) for head, value in enumerate(heads)]
            terms += [(f"attn {layer} bias", float(self.attn_bias[layer])), (f"mlp {layer}", float(self.mlp[layer]))]
        if self.run.overwrites:
            terms.append(("overwritten", self.overwritten))
        return [*terms, ("ln_f bias", self.ln_f_bias)]


def direct_logit_attribution(run: Run, plus: int | str, minus: int | str, position: int = -1) -> Attribution:
    """Take logit(plus) - logit(minus) at one position apart into what each part of the model wrote, exactly.

    plus and minus are token ids, or texts of one token each. The final layer norm is (x - mean) / s * weight + bias;
    with the run's own s ("frozen") it is linear in x, and so is the product with the answer direction,
    wte[plus] - wte[minus]. Of a run with overwrites every head and MLP has what was computed under them; what was written
    over the stream or a whole attn_out is nobody's, and a term of its own. Raises ValueError for a token or a position
    that is not there.
    """
    model, c, weights = run.model, run.model.config, run.model.weights
    ids = [model.tokenizer.single_token(token) if isinstance(token, str) else token for token in (plus, minus)]
    plus, minus = map(int, model.check_tokens(ids))
    if plus == minus:
        raise ValueError(f"plus and minus are both token {plus}: attribution compares two different tokens")
    n_seq = len(run.tokens)
    if not isinstance(position, (int, np.integer)) or not -n_seq <= position < n_seq:
        raise ValueError(f"there is no position {position!r}: the text has positions 0 to {n_seq - 1}")
    position %= n_seq

    resid = run.resid_post[-1, position]
    reads, direction = answer_direction(run, plus, minus, position), weights.wte[plus] - weights.wte[minus]
    heads = np.stack([head_terms(run, layer, position, reads) for layer in range(c.n_layer)])
    attn_bias = np.array([h.attn.c_proj.bias @ reads for h in weights.h])
    total = m.layer_norm(resid, weights.ln_f.weight, weights.ln_f.bias, c.layer_norm_epsilon) @ direction
    return Attribution(
        run, plus, minus, position, float(total),
        embedding=float(weights.wte[run.tokens[position]] @ reads),
        position_embedding=float(weights.wpe[position] @ reads),
        heads=read_only(heads),
        attn_bias=read_only(attn_bias),
        mlp=read_only(run.mlp_out[:, position] @ reads),
        ln_f_bias=float(weights.ln_f.bias @ direction),
        overwritten=float(written_over(run, position) @ reads),
    )  # fmt: skip


def answer_direction(run, plus, minus, position):
    """What the logit difference reads off the stream at a position, the final layer norm's own scale included, [n_embd]."""
    resid, (wte, ln_f) = run.resid_post[-1, position], (run.model.weights.wte, run.model.weights.ln_f)
    s = np.sqrt(resid.var() + run.model.config.layer_norm_epsilon)
    reads = ln_f.weight * (wte[plus] - wte[minus])
    return (reads - reads.mean()) / s  # taking the mean off x, or off what reads x, is the same


def head_terms(run, layer, position, reads):
    """What each head of a layer adds along `reads`, [n_head]: its z through its rows of c_proj, unless that is overwritten."""
    if any(write.name == "result" for write in run.writes.get(layer, ())):
        return run.activation("result", layer)[:, position] @ reads
    z = run.z[layer, :, position]  # [n_head, d_head]
    return (z * (run.model.weights.h[layer].attn.c_proj.weight @ reads).reshape(z.shape)).sum(axis=-1)


def written_over(run, position):
    """How far the stream is from the sum of what the model's parts wrote into it, at one position, [n_embd]: 0 unless
    resid_pre, attn_out, resid_mid or resid_post were overwritten."""
    weights, jump = run.model.weights, np.zeros(run.model.config.n_embd, run.model.dtype)
    for layer, writes in run.writes.items():
        names, pos, h = {write.name for write in writes}, position, weights.h[layer]
        if "resid_pre" in names:
            token = weights.wte[run.tokens[pos]] + weights.wpe[pos]
            before = run.resid_mid[layer - 1][pos] + run.mlp_out[layer - 1][pos] if layer else token
            jump += run.resid_pre[layer][pos] - before
        if "attn_out" in names:
            own = run.activation("result", layer)[:, pos].sum(axis=0) + h.attn.c_proj.bias
            jump += run.attn_out[layer][pos] - own
        if "resid_mid" in names:
            jump += run.resid_mid[layer][pos] - (run.resid_pre[layer][pos] + run.attn_out[layer][pos])
        if "resid_post" in names and "resid_pre" not in {w.name for w in run.writes.get(layer + 1, ())}:
            jump += run.resid_post[layer][pos] - (run.resid_mid[layer][pos] + run.mlp_out[layer][pos])
    return jump
