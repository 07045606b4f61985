"""GPT-2 as its user holds it: load it, turn text into tokens, run it with everything it computes kept, and resume it
from an edited residual stream.

The arithmetic is in model.py, the files are weights.py's and hub.py's, the vocabulary is tokenizer.py's.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import model as m
from .shapes import check_config, check_weights


class GPT2:
    """A GPT-2 of any size: `config`, `weights` (read-only arrays) and, where its folder has one, a tokenizer.

    Made from a Config and Weights of one's own, it holds views of those arrays, all float32 or all float64, and raises
    CheckpointError for weights that are not exactly those of the config.
    """

    def __init__(self, config, weights, tokenizer=None, name="unnamed", revision=None):
        check_config(config)
        self.config = config
        self.weights = check_weights(config, weights)
        self.name = name
        self.revision = revision
        self._tokenizer = tokenizer
        self._origin = None  # (name or absolute folder, dtype, revision) of a model that can be loaded again
        keep_freed_memory()

    @classmethod
    def from_pretrained(cls, name_or_folder="gpt2", dtype=np.float32, revision=None):
        """Load a checkpoint from the Hugging Face Hub (or its cache), or from a folder in the Hub's layout.

        dtype is float32 or float64, whatever the file stores. revision is a commit, branch or tag of the Hub
        repository; the default for "gpt2" is one pinned commit. Raises minigpt2.CheckpointError (a ValueError) for
        a checkpoint that cannot be used, minigpt2.HubError (an OSError) for one that cannot be fetched.
        """
        from .checkpoint.weights import load

        config, weights, source = load(name_or_folder, dtype, revision)
        model = cls(config, weights, source.tokenizer, source.name, source.revision)
        place = source.name if source.revision or source.name == "bundled" else os.path.abspath(source.folder)
        model._origin = place, np.dtype(dtype).name, source.revision
        return model

    def __reduce__(self):
        """Pickle a loaded model as where it came from, to be loaded once in each process; another one as its arrays."""
        if self._origin is None:
            return type(self), (self.config, self.weights, self._tokenizer, self.name, self.revision)
        from .pickled import fingerprint, load_again

        return load_again, (type(self), *self._origin, self.name, fingerprint(self.weights))

    def __repr__(self):
        c = self.config
        return (
            f"GPT2({self.name!r}, {c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd}, n_ctx {c.n_ctx}, "
            f"n_vocab {c.n_vocab}, {self.dtype})"
        )

    @property
    def dtype(self):
        return self.weights.wte.dtype

    @cached_property
    def tokenizer(self):
        """The vocabulary as minigpt2.tokenizer.Tokenizer; loaded on first use, since running on ids needs none."""
        if self._tokenizer is None:
            raise ValueError(
                f"{self.name} was made without a vocabulary: give it token ids, or load it from a folder with one"
            )
        return self._tokenizer() if callable(self._tokenizer) else self._tokenizer

    def encode(self, text):
        """Text to token ids, list[int]."""
        return self.tokenizer.encode(text)

    def decode(self, tokens):
        """Token ids to text."""
        return self.tokenizer.decode(tokens)

    def labels(self, tokens):
        """A visible string for each token id, list[str]: "␣Jones", or where the vocabulary has no such id "<50300>".

        For a model whose vocabulary is not at hand, the ids themselves.
        """
        try:
            tokenizer = self.tokenizer
        except (ValueError, OSError):
            return [str(token) for token in tokens]
        return [tokenizer.visible(token) if token < tokenizer.n_vocab else f"<{token}>" for token in tokens]

    def run(self, tokens, keep=None):
        """Run one text of token ids [n_seq] and keep what every layer computes.

        keep names the activations to hold, all by default; resid_pre and resid_post are always held. A run of
        GPT-2 small holds 0.30 MB for each token. Raises ValueError for tokens or names that cannot be used,
        FloatingPointError for a stream that overflows.
        """
        return self.run_batch([tokens], keep)[0]

    def run_batch(self, texts, keep=None):
        """Run several texts of equal length at once, reading every weight once. Returns one Run per text."""
        c, tokens = self.config, self.check_batch(texts)  # [n_texts, n_seq]
        kept = self.room_for(tokens.shape, ACTIVATIONS if keep is None else keep)
        stream = kept.pop("stream")  # [n_layer + 1, n_texts, n_seq, n_embd]
        stream[0] = m.embed(tokens, self.weights.wte, self.weights.wpe)
        for layer, h in enumerate(self.weights.h):
            with quiet():
                made = m.block(stream[layer], h, c)
            check_finite(made["resid_post"], f"the residual stream overflowed {self.dtype} in layer {layer}")
            stream[layer + 1] = made["resid_post"]
            for name, array in kept.items():
                array[layer] = made[name]
            del made  # so that the next layer works in its memory
        kept |= {"resid_pre": stream[:-1], "resid_post": stream[1:]}
        for array in kept.values():
            array.flags.writeable = False
        return [
            Run(
                self,
                tuple(map(int, text)),
                **{name: kept[name][:, i] if name in kept else None for name in ACTIVATIONS},
            )
            for i, text in enumerate(tokens)
        ]

    def room_for(self, shape, keep):
        """Unwritten arrays for a batch of tokens [n_texts, n_seq]: the stream, and every layer's activations in keep.

        They are cut from one block of memory, which an operating system hands out many times faster than as many small
        ones; a layer of any of them is as large as its input.
        """
        if isinstance(keep, str) or not isinstance(keep, Iterable):
            raise ValueError(f'keep is a list of names, such as ["z"], got {keep!r:.60}')
        if unknown := [name for name in keep if name not in ACTIVATIONS]:
            raise ValueError(f"there is no activation {unknown[0]!r:.60} to keep: they are {', '.join(ACTIVATIONS)}")
        c, (n_texts, n_seq) = self.config, shape
        names = [name for name in ACTIVATIONS if name in keep and name not in ("resid_pre", "resid_post")]
        block = np.empty((1 + c.n_layer * (1 + len(names)), n_texts, n_seq, c.n_embd), self.dtype)
        room, by_head = {"stream": block[: c.n_layer + 1]}, (c.n_layer, n_texts, c.n_head, n_seq, c.d_head)
        for i, name in enumerate(names, start=1):
            array = block[1 + i * c.n_layer :][: c.n_layer]
            room[name] = array.reshape(by_head) if name in ("q", "k", "v", "z") else array
        return room

    def resume(self, resid, layer, at="resid_pre"):
        """Let a residual stream enter block `layer` and run on to the logits.

        resid [..., n_seq, n_embd] stands in for what block `layer` reads: its resid_pre, or with at="resid_mid" the
        stream between its attention and its MLP. layer = n_layer goes straight to the final layer norm. Returns logits
        [..., n_seq, n_vocab]; resid itself is not changed. Raises ValueError for another shape or place,
        FloatingPointError for a stream that is not finite or overflows.
        """
        c, eps = self.config, self.config.layer_norm_epsilon
        try:
            with quiet():  # check_finite speaks
                resid = np.asarray(resid).astype(self.dtype, casting="same_kind", copy=False)
        except (TypeError, ValueError):
            raise ValueError(f"resume needs a residual stream of numbers, got {type(resid).__name__}") from None
        if resid.ndim < 2 or not resid.size or resid.shape[-1] != c.n_embd or resid.shape[-2] > c.n_ctx:
            raise ValueError(
                f"resume needs a residual stream of shape [..., n_seq, {c.n_embd}] with n_seq from 1 to {c.n_ctx}, "
                f"got {list(resid.shape)}"
            )
        if not isinstance(at, str) or at not in ("resid_pre", "resid_mid"):
            raise ValueError(f'resume enters a block at "resid_pre" or at "resid_mid", got {at!r}')
        if not isinstance(layer, (int, np.integer)) or not 0 <= layer <= c.n_layer - (at == "resid_mid"):
            raise ValueError(
                f"there is no layer {layer!r} to resume at: blocks are 0 to {c.n_layer - 1}"
                + (f", and {c.n_layer} is the final layer norm" if at == "resid_pre" else "")
            )
        if not np.isfinite(resid).all():
            raise FloatingPointError(
                f"the residual stream given to layer {layer} holds NaN, or infinity in {self.dtype}: see what was written to it"
            )
        check_finite(resid, f"the residual stream given to layer {layer} overflows {self.dtype}")
        if at == "resid_mid":
            with quiet():
                resid = resid + m.mlp(m.layer_norm(resid, *self.weights.h[layer].ln_2, eps), *self.weights.h[layer].mlp)
            check_finite(resid, f"the residual stream overflowed {self.dtype} in layer {layer}")
            layer += 1
        for i in range(layer, c.n_layer):
            with quiet():
                resid = m.block(resid, self.weights.h[i], c)["resid_post"]
            check_finite(resid, f"the residual stream overflowed {self.dtype} in layer {i}")
        with quiet():
            logits = m.unembed(resid, self.weights.ln_f, self.weights.wte, eps)
        check_finite(logits, f"the logits overflowed {self.dtype}")
        return logits

    def check_batch(self, texts):
        """Texts of equal length as an integer array [n_texts, n_seq], or a ValueError."""
        try:
            texts = list(texts)
        except TypeError:
            raise ValueError(f"run_batch needs a list of texts, got {type(texts).__name__}") from None
        texts = [self.check_tokens(text) for text in texts]
        if len(lengths := sorted({len(text) for text in texts})) != 1:
            raise ValueError(
                f"run_batch needs one or more texts of equal length, got {' and '.join(map(str, lengths)) or 'no'} tokens"
            )
        return np.stack(texts)

    def check_tokens(self, tokens):
        """tokens as an integer array [n_seq], or a ValueError that says what this model cannot read in it."""
        if isinstance(tokens, (str, bytes)):
            raise ValueError("tokens are ids, and this is text: model.encode(text) makes them from it")
        try:
            array = np.asarray(tokens)
        except ValueError:
            raise ValueError("tokens must be one flat list of token ids, got lists of different lengths") from None
        n_ctx, n_vocab = self.config.n_ctx, self.config.n_vocab
        if array.ndim != 1:
            raise ValueError(f"tokens must be one flat list of token ids, got an array of shape {list(array.shape)}")
        if array.size == 0:
            raise ValueError("there are no tokens to run: give at least one token id")
        if array.dtype.kind not in "iu":  # NumPy counts spans of time among its integers
            raise ValueError(f"token ids must be integers, got {array.dtype}; model.encode(text) makes them from text")
        if array.size > n_ctx:
            raise ValueError(
                f"{array.size} tokens do not fit: {self.name} has n_ctx = {n_ctx} positions; shorten the text"
            )
        outside = array[(array < 0) | (array >= n_vocab)]
        if outside.size:
            raise ValueError(f"token id {outside[0]} is not in the vocabulary: {self.name} has ids 0 to {n_vocab - 1}")
        return array.astype(np.int64)  # one type for all: uint64 stacked with int64 would be floats


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a model computed for one text. All arrays are read-only; copy one to edit it.

    Names are TransformerLens's; resid_post[layer] is resid_pre[layer + 1], in the same memory. All arrays of a run share
    one block of it, so a vector kept from each of many runs keeps them all: keep a copy.
    """

    model: GPT2
    tokens: tuple  # n_seq ids
    resid_pre: np.ndarray  # [n_layer, n_seq, n_embd]
    resid_mid: np.ndarray  # [n_layer, n_seq, n_embd]
    resid_post: np.ndarray  # [n_layer, n_seq, n_embd]
    attn_out: np.ndarray  # [n_layer, n_seq, n_embd]
    mlp_out: np.ndarray  # [n_layer, n_seq, n_embd]
    q: np.ndarray  # [n_layer, n_head, n_seq, d_head]
    k: np.ndarray  # [n_layer, n_head, n_seq, d_head]
    v: np.ndarray  # [n_layer, n_head, n_seq, d_head]
    z: np.ndarray  # [n_layer, n_head, n_seq, d_head]

    def __post_init__(self):
        for name in [name for name in ACTIVATIONS if vars(self)[name] is None]:
            del self.__dict__[name]  # so that __getattr__ speaks

    def __getattr__(self, name):
        if name not in (*ACTIVATIONS, "pattern"):
            raise AttributeError(f"a Run has no {name!r}")
        lost = "q or k" if name == "pattern" else name
        raise AttributeError(f"this run did not keep {lost}: run the text again with it in keep, or without keep")

    def __getstate__(self):
        """Every array kept, the stream once; what is computed on first use is computed again."""
        state = {name: value for name, value in vars(self).items() if name not in ("pattern", "logits", "resid_post")}
        return state | {"resid_pre": np.concatenate([self.resid_pre, self.resid_post[-1:]])}

    def __setstate__(self, state):
        stream = state["resid_pre"]
        state |= {"resid_pre": stream[:-1], "resid_post": stream[1:]}
        self.__dict__.update({k: read_only(v) if isinstance(v, np.ndarray) else v for k, v in state.items()})

    def __repr__(self):
        return f"Run({len(self.tokens)} tokens through {self.model!r})"

    @cached_property
    def pattern(self):
        """Attention patterns [n_layer, n_head, n_seq, n_seq] (destination, source), computed on first use."""
        return read_only(m.attention_pattern(self.q, self.k))

    @cached_property
    def logits(self):
        """Logits [n_seq, n_vocab], computed on first use."""
        return read_only(self.model.resume(self.resid_post[-1], self.model.config.n_layer))


ACTIVATIONS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z")


def keep_freed_memory():
    """Let what one layer frees serve the next: glibc's malloc keeps up to twice the largest block that was ever given
    back to it, within 32 MiB (mallopt(3), M_MMAP_THRESHOLD), and fetches the rest anew from the kernel, page by page.

    The block is never written, so it takes no memory. Without glibc nothing happens.
    """
    np.empty((32 << 20) - 8192, np.uint8)


def read_only(array):
    array.flags.writeable = False
    return array


def quiet():
    """Silence NumPy about overflow where check_finite speaks instead, and names the layer."""
    return np.errstate(over="ignore", invalid="ignore")


def check_finite(array, what):
    """Raise FloatingPointError unless the squares of each row have a finite sum, which the next layer norm takes."""
    with quiet():
        finite = np.isfinite(np.vecdot(array, array)).all()
    if not finite:
        remedy = "; try dtype=np.float64" if array.dtype == np.float32 else ""
        raise FloatingPointError(f"{what}: the weights or the patched vector are too large{remedy}")
