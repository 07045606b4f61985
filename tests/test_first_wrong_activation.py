"""The first activation that is wrong, by name: run this after changing a line of model.py. It is the first file that the
test-suite runs (conftest.py), and its message says where to look; the second reference is in models.py, written with
loops and without looking at model.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import ODD, plain_forward, random_model, random_tokens

from minigpt2 import model as m

# In the order of the data flow: what makes each activation in model.py
MADE_BY = {
    "resid_pre": "embed",
    "q": "layer_norm, linear or split_qkv",
    "k": "layer_norm, linear or split_qkv",
    "v": "layer_norm, linear or split_qkv",
    "pattern": "attention_pattern, causal_mask or softmax",
    "z": "attend",
    "result": "head_results",
    "attn_out": "merge_heads or linear",
    "resid_mid": "the sum in block after attention",
    "mlp_out": "layer_norm, mlp or gelu",
    "resid_post": "the sum in block after the MLP",
    "logits": "unembed",
}
ROUNDING = 1e-11  # float64, numbers of a few units; a mistake is at least a million times larger


def first_wrong(tokens, model):
    """A sentence on the first activation that is not the reference's, or None."""
    expected = {}

    def keep(name, layer, x):
        expected[name, layer] = x
        return x

    logits = plain_forward(tokens, model.weights, model.config, keep)
    run = model.run(tokens)
    for (name, layer), theirs in [*expected.items(), (("logits", None), logits)]:
        if name == "resid_pre" and layer:
            continue  # the stream after the layer before it, compared there
        ours = getattr(run, name) if layer is None else run.activation(name, layer)
        if ours.shape != theirs.shape:
            return sentence(name, layer, f"its shape is {list(ours.shape)}, not {list(theirs.shape)}")
        if not (difference := np.abs(ours - theirs).max()) < ROUNDING:
            return sentence(name, layer, f"it differs by up to {difference:.1e}")
    return None


def sentence(name, layer, how):
    place = name if layer is None else f"{name}[{layer}]"
    return f"the first activation that is wrong is {place} ({how}): look at {MADE_BY[name]} in minigpt2/model.py"


@pytest.mark.parametrize("n_seq", [1, 5, 13])
def test_every_activation_in_the_order_of_the_data_flow(model, n_seq):
    wrong = first_wrong(random_tokens(ODD, n_seq), model)
    assert wrong is None, wrong


# The message, for each line that someone may change


def without_wpe(tokens, wte, wpe, first_pos=0):
    return wte[tokens]


def relu(x):
    return np.maximum(x, 0)


def without_mean(x, weight, bias, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight + bias


def unscaled(q, k, right=m.attention_pattern):
    return right(q * q.shape[-1] ** 0.5, k)


def without_ln_f(resid, ln_f, wte, eps):
    return m.linear(resid, wte.T)


def reversed_heads(x, right=m.merge_heads):
    return right(x[..., ::-1, :, :])


@pytest.mark.parametrize(
    "name, wrong, first",
    [
        ("embed", without_wpe, "resid_pre[0]"),
        ("layer_norm", without_mean, "q[0]"),
        ("attention_pattern", unscaled, "pattern[0]"),
        ("merge_heads", reversed_heads, "attn_out[0]"),
        ("gelu", relu, "mlp_out[0]"),
        ("unembed", without_ln_f, "logits"),
    ],
)
def test_the_first_wrong_one_is_named(monkeypatch, name, wrong, first):
    monkeypatch.setattr(m, name, wrong)
    told = first_wrong(random_tokens(ODD, 5), random_model())
    assert told and told.startswith(f"the first activation that is wrong is {first} (") and name in told


def test_this_file_comes_first():
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", here.parent / "test_attribution.py", here]
    listed = subprocess.run(command, cwd=here.parent.parent, capture_output=True, text=True, timeout=60).stdout
    names = [line.partition("::")[0].rpartition("/")[2] for line in listed.splitlines() if "::" in line]
    assert names[0] == here.name and names[-1] == "test_attribution.py"
