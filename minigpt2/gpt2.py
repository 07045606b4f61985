"""GPT-2 as its user holds it: load it, turn text into tokens, run it with everything it computes kept, run it with
activations overwritten, and resume it from an edited residual stream.

The arithmetic is in model.py, the overwriting in overwrite.py, what is refused in checks.py; checkpoint/ reads the files
and tokenizer.py the vocabulary.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from . import model as m
from .checks import check_batch, check_finite, check_resumed, check_tokens, quiet
from .memory import keep_freed_memory
from .overwrite import Overwrite, at_resid_post, check_ahead, overwritten_block, prepare, put
from .shapes import check_config, check_weights

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


class GPT2:
    """A GPT-2 of any size: `config`, `weights` (read-only arrays) and, where its folder has one, a tokenizer.

    Made from a Config and Weights of one's own, it holds views of those arrays, all float32 or all float64, and raises
    CheckpointError for weights that are not exactly those of the config.
    """

    def __init__(
        self,
        config: m.Config,
        weights: m.Weights,
        tokenizer: "Tokenizer | Callable[[], Tokenizer] | None" = None,
        name: str = "unnamed",
        revision: str | None = None,
    ):
        check_config(config)
        self.config = config
        self.weights = check_weights(config, weights)
        self.name = name
        self.revision = revision
        self._tokenizer = tokenizer
        self._origin: tuple[str, str, str | None] | None = None  # what load_again needs of a model that was loaded
        keep_freed_memory()

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = "gpt2",
        dtype: "np.typing.DTypeLike" = np.float32,
        revision: str | None = None,
        mapped: bool = False,
    ) -> "GPT2":
        """Load a checkpoint from the Hugging Face Hub (or its cache), or from a folder in the Hub's layout.

        dtype is float32 or float64, whatever the file stores. revision is a commit, branch or tag of the Hub
        repository; the default for "gpt2" is one pinned commit. mapped=True maps the weights' file into memory
        where it has them as they are needed, so that processes of one machine share them; the file must not change
        meanwhile. Raises minigpt2.CheckpointError (a ValueError) for a checkpoint that cannot be used, minigpt2.HubError
        (an OSError) for one that cannot be fetched.
        """
        from .checkpoint.weights import load

        config, weights, source = load(name_or_folder, dtype, revision, mapped)
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

    def __repr__(self) -> str:
        c = self.config
        return (
            f"GPT2({self.name!r}, {c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd}, n_ctx {c.n_ctx}, "
            f"n_vocab {c.n_vocab}, {self.dtype})"
        )

    @property
    def dtype(self) -> np.dtype:
        return self.weights.wte.dtype

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The vocabulary as minigpt2.tokenizer.Tokenizer; loaded on first use, since running on ids needs none."""
        if self._tokenizer is None:
            raise ValueError(
                f"{self.name} was made without a vocabulary: give it token ids, or load it from a folder with one"
            )
        return self._tokenizer() if callable(self._tokenizer) else self._tokenizer

    def encode(self, text: str) -> list[int]:
        """Text to token ids, list[int]."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Token ids to text."""
        return self.tokenizer.decode(tokens)

    def labels(self, tokens: Iterable[int]) -> list[str]:
        """A visible string for each token id, list[str]: "␣Jones", or where the vocabulary has no such id "<50300>".

        For a model whose vocabulary is not at hand, the ids themselves.
        """
        try:
            tokenizer = self.tokenizer
        except (ValueError, OSError):
            return [str(token) for token in tokens]
        return [tokenizer.visible(token) if token < tokenizer.n_vocab else f"<{token}>" for token in tokens]

    def run(
        self, tokens: Sequence[int], keep: Iterable[str] | None = None, overwrites: Sequence[Overwrite] = ()
    ) -> "Run":
        """Run one text of token ids [n_seq] and keep what every layer computes.

        keep names the activations to hold, all by default; resid_pre and resid_post are always held. overwrites are
        written while it runs, and the Run holds what was computed under them. A run of GPT-2 small holds 0.30 MB for
        each token. Raises ValueError for tokens, names or overwrites that cannot be used, FloatingPointError for a
        stream that overflows.
        """
        return self.run_batch([tokens], keep, overwrites)[0]

    def run_batch(
        self,
        texts: Sequence[Sequence[int]],
        keep: Iterable[str] | None = None,
        overwrites: Sequence[Overwrite] = (),
    ) -> list["Run"]:
        """Run several texts of equal length at once, reading every weight once. Returns one Run per text.

        overwrites are written into every one of them.
        """
        c, tokens = self.config, check_batch(texts, self.config, self.name)  # [n_texts, n_seq]
        writes, names = prepare(overwrites, self, tokens.shape[1]), kept_names(keep)
        n_texts, n_seq = tokens.shape
        stream = np.empty((c.n_layer + 1, n_texts, n_seq, c.n_embd), self.dtype)
        kept = {name: np.empty((c.n_layer, n_texts, *shape_of(name, c, n_seq)), self.dtype) for name in names}
        stream[0] = m.embed(tokens, self.weights.wte, self.weights.wpe)
        for layer, h in enumerate(self.weights.h):
            with quiet():
                for name, array in overwritten_block(stream[layer], h, c, writes.get(layer, ())):
                    if name in kept:
                        kept[name][layer] = array
            check_finite(array, f"the residual stream overflowed {self.dtype} in layer {layer}")
            stream[layer + 1] = array
        kept |= {"resid_pre": stream[:-1], "resid_post": stream[1:]}
        for array in kept.values():
            array.flags.writeable = False
        return [
            Run(self, tuple(map(int, text)), {name: array[:, i] for name, array in kept.items()}, tuple(overwrites))
            for i, text in enumerate(tokens)
        ]

    def resume(
        self, resid: np.ndarray, layer: int, at: str = "resid_pre", overwrites: Sequence[Overwrite] = ()
    ) -> np.ndarray:
        """Let a residual stream enter block `layer` and run on to the logits.

        resid [..., n_seq, n_embd] stands in for what block `layer` reads: its resid_pre, or with at="resid_mid" the
        stream between its attention and its MLP. layer = n_layer goes straight to the final layer norm. overwrites are
        written on the way. Returns logits [..., n_seq, n_vocab]; resid itself is not changed. Raises ValueError for
        another shape or place, FloatingPointError for a stream that is not finite or overflows.
        """
        resid = check_resumed(resid, layer, at, self.config, self.dtype)
        writes = prepare(overwrites, self, resid.shape[-2])
        check_ahead(writes, layer, at)
        return self.run_on(resid, layer, writes, at)

    def run_on(self, resid, layer, writes, at="resid_pre"):
        """resume, with nothing checked but the numbers: writes are overwrite.prepare's."""
        c = self.config
        for i, h in enumerate(self.weights.h[layer:], start=layer):
            some = writes.get(i, ())
            with quiet():
                resid = resid.copy() if some else resid  # it is written to where it is itself overwritten
                if (i, at) == (layer, "resid_mid"):
                    put(some, at, resid, None, None)
                    for name, resid in m.mlp_layer(resid, h, c):
                        put(some, name, resid, None, None)
                else:
                    for _, resid in overwritten_block(resid, h, c, some):
                        pass
            check_finite(resid, f"the residual stream overflowed {self.dtype} in layer {i}")
        with quiet():
            logits = m.unembed(resid, self.weights.ln_f, self.weights.wte, c.layer_norm_epsilon)
        check_finite(logits, f"the logits overflowed {self.dtype}")
        return logits

    def check_tokens(self, tokens: Sequence[int]) -> np.ndarray:
        """tokens as an integer array [n_seq], or a ValueError that says what this model cannot read in it."""
        return check_tokens(tokens, self.config, self.name)


ACTIVATIONS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z")


def kept_names(keep):
    """The names of the activations to keep beside the stream, in the order of ACTIVATIONS, or a ValueError."""
    keep = ACTIVATIONS if keep is None else keep
    if isinstance(keep, str) or not isinstance(keep, Iterable):
        raise ValueError(f'keep must be a list of names, e.g. ["z"], got {keep!r:.60}')
    keep = list(keep)
    if unknown := [name for name in keep if name not in ACTIVATIONS]:
        raise ValueError(f"unknown activation {unknown[0]!r:.60} to keep; choose from {', '.join(ACTIVATIONS)}")
    return [name for name in ACTIVATIONS if name in keep and name not in ("resid_pre", "resid_post")]


def shape_of(name, config, n_seq):
    """The shape of one layer of an activation, of one text."""
    by_head = name in ("q", "k", "v", "z")
    return (config.n_head, n_seq, config.d_head) if by_head else (n_seq, config.n_embd)


class Kept:
    """An activation of a Run: its array, or the sentence that says why it is not there."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, run, owner=None) -> np.ndarray:
        if run is None:
            raise AttributeError(self.name)
        if self.name not in run.kept:
            raise AttributeError(
                f"this run did not keep {self.name}: run the text again with it in keep, or without keep"
            )
        return run.kept[self.name]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a model computed for one text. All arrays are read-only; copy one to edit it.

    Names are TransformerLens's; resid_post[layer] is resid_pre[layer + 1], in the same memory. A vector taken from a
    run is a view that keeps the whole array it is of: of many runs, keep copies.
    """

    model: GPT2
    tokens: tuple[int, ...]  # n_seq ids
    kept: dict[str, np.ndarray]  # the arrays below, as many as were kept
    overwrites: tuple[Overwrite, ...] = ()  # what was written while it ran

    resid_pre = Kept()  # [n_layer, n_seq, n_embd]
    resid_mid = Kept()  # [n_layer, n_seq, n_embd]
    resid_post = Kept()  # [n_layer, n_seq, n_embd]
    attn_out = Kept()  # [n_layer, n_seq, n_embd]
    mlp_out = Kept()  # [n_layer, n_seq, n_embd]
    q = Kept()  # [n_layer, n_head, n_seq, d_head]
    k = Kept()  # [n_layer, n_head, n_seq, d_head]
    v = Kept()  # [n_layer, n_head, n_seq, d_head]
    z = Kept()  # [n_layer, n_head, n_seq, d_head]

    def __getstate__(self):
        """Every array kept, the stream once; what is computed on first use is computed again."""
        stream = np.concatenate([self.resid_pre, self.resid_post[-1:]])
        others = {name: array for name, array in self.kept.items() if name not in ("resid_pre", "resid_post")}
        return self.model, self.tokens, others | {"stream": stream}, self.overwrites

    def __setstate__(self, state):
        model, tokens, kept, overwrites = state
        kept = {name: read_only(array) for name, array in kept.items()}
        stream = kept.pop("stream")
        kept |= {"resid_pre": stream[:-1], "resid_post": stream[1:]}
        self.__dict__.update(model=model, tokens=tokens, kept=kept, overwrites=overwrites)

    def __repr__(self):
        under = f" under {len(self.overwrites)} overwrites" if self.overwrites else ""
        return f"Run({len(self.tokens)} tokens through {self.model!r}{under})"

    @cached_property
    def writes(self):
        """The overwrites as overwrite.prepare has them, by layer; those of a resid_pre as of the resid_post before it."""
        return at_resid_post(prepare(self.overwrites, self.model, len(self.tokens)))

    def activation(self, name: str, layer: int, head: int | None = None) -> np.ndarray:
        """One layer of any activation, or one head's: pattern [n_head, n_seq, n_seq] and result [n_head, n_seq, n_embd]
        are made on the spot."""
        layer = range(self.model.config.n_layer)[layer]
        heads, writes = slice(None) if head is None else head, self.writes.get(layer, ())
        if name == "pattern" and any(write.name == name for write in writes):
            pattern = m.attention_pattern(self.q[layer], self.k[layer])
            put(writes, name, pattern, None, None)
            return pattern[heads]
        if name == "pattern":
            return m.attention_pattern(self.q[layer, heads], self.k[layer, heads])
        if name == "result":
            result = m.head_results(self.z[layer], self.model.weights.h[layer].attn.c_proj.weight)
            put(writes, name, result, None, None)
            return result[heads]
        return getattr(self, name)[layer][heads]

    @cached_property
    def pattern(self) -> np.ndarray:
        """Attention patterns [n_layer, n_head, n_seq, n_seq] (destination, source), computed on first use."""
        return read_only(np.stack([self.activation("pattern", layer) for layer in range(len(self.q))]))

    @cached_property
    def logits(self) -> np.ndarray:
        """Logits [n_seq, n_vocab], computed on first use."""
        return read_only(self.model.resume(self.resid_post[-1], self.model.config.n_layer))


def read_only(array):
    array.flags.writeable = False
    return array
