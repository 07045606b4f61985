"""What training changes, and how: all parameters as one flat array, their start, and AdamW on it.

Read next: train.py, which calls these in a loop.
"""

import math

import numpy as np

from ..checkpoint import weights


class Parameters:
    """All parameters in one flat array, so that the optimiser is a few array operations; `weights` are views of it.

    Matrices come first: the first `n_decayed` numbers are those that weight decay applies to; biases and layer norms,
    behind them, are spared, as GPT-2's training is usually reproduced.
    """

    def __init__(self, config, dtype=np.float32):
        shapes = sorted(weights.expected_shapes(config).items(), key=lambda item: -len(item[1]))
        self.n_decayed = sum(math.prod(shape) for _, shape in shapes if len(shape) == 2)
        self.flat = np.zeros(sum(math.prod(shape) for _, shape in shapes), dtype)
        self.named, start = {}, 0
        for name, shape in shapes:
            self.named[name] = self.flat[start : start + math.prod(shape)].reshape(shape)
            start += math.prod(shape)
        self.weights = weights.nest(self.named)

    def initialise(self, seed, spread, config):
        """GPT-2's start (Radford et al. 2019, section 2.3; openai/gpt-2 src/model.py): normal numbers, smaller by
        sqrt(2 n_layer) where a layer writes to the stream, since 2 n_layer layers do; gains 1, biases 0.

        Two things differ, for the sake of a training within the hour: without them no induction was seen to form in it.
        wpe starts as waves (Vaswani et al. 2017, section 3.5), 2 pi to 2 pi n_ctx positions long, in which heads that
        look one position back are soon found. And after Trockman and Kolter 2023, every head's keys start as its
        queries, so that it looks for its own like, and its output undoes its values, so that it copies what it sees.
        """
        rng = np.random.default_rng(seed)
        writers = math.sqrt(2 * config.n_layer)
        for name, array in self.named.items():
            if array.ndim == 2:
                array[:] = rng.normal(0, spread / writers if "c_proj" in name else spread, array.shape)
            elif name.endswith("weight"):
                array[:] = 1
        for h in self.weights.h:
            q, k, v = np.split(h.attn.c_attn.weight, 3, axis=1)  # views: writing to k changes c_attn
            k[:] = q
            h.attn.c_proj.weight[:] = v.T / writers
        angles = np.arange(config.n_ctx)[:, None] / config.n_ctx ** np.linspace(0, 1, config.n_embd // 2)
        self.weights.wpe[:] = spread * math.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), in place on a flat array."""

    def __init__(self, parameters, n_decayed, beta1, beta2, weight_decay, eps=1e-8):
        self.parameters, self.n_decayed = parameters, n_decayed
        self.beta1, self.beta2, self.weight_decay, self.eps = beta1, beta2, weight_decay, eps
        self.m, self.v = np.zeros_like(parameters), np.zeros_like(parameters)
        self.steps = 0

    def step(self, gradient, learning_rate):
        """One step; the gradient's array is used up as scratch space."""
        self.steps += 1
        self.parameters[: self.n_decayed] *= 1 - learning_rate * self.weight_decay
        self.m *= self.beta1
        self.m += (1 - self.beta1) * gradient
        self.v *= self.beta2
        np.square(gradient, out=gradient)
        self.v += (1 - self.beta2) * gradient
        root = np.sqrt(self.v, out=gradient)
        root /= math.sqrt(1 - self.beta2**self.steps)
        root += self.eps
        np.divide(self.m, root, out=root)
        root *= learning_rate / (1 - self.beta1**self.steps)
        self.parameters -= root


def clip(gradient, limit):
    """Shorten the gradient to length `limit` if it is longer (Pascanu et al. 2013)."""
    length = math.sqrt(np.dot(gradient, gradient))
    if length > limit:
        gradient *= limit / length
