"""config.json: the sizes of a GPT-2, and the refusal of whatever model.py would compute wrongly."""

from pathlib import Path

from ..errors import CheckpointError
from ..model import Config
from .tensors import brief, read_json

MUST_BE = {  # any other value computes something that model.py does not; None: the key is absent
    "model_type": ["gpt2"],
    "activation_function": ["gelu_new", "gelu_pytorch_tanh", None],  # two names of the tanh form, and the default
    "scale_attn_weights": [True, None],
    "scale_attn_by_inverse_layer_idx": [False, None],
    "add_cross_attention": [False, None],
    "tie_word_embeddings": [True, None],
}
MOST_LAYERS, MOST = 1_000, 10_000_000  # far above any GPT-2, so that an absurd config costs neither time nor memory


def read_config(folder):
    """Read a GPT-2's sizes from config.json; refuse a model that model.py does not compute."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: a model folder holds config.json and model.safetensors")
    fields = read_json(path)
    for key, accepted in MUST_BE.items():
        value = fields.get(key)
        if not any(value == one and type(value) is type(one) for one in accepted):
            raise CheckpointError(f"{path}: {key} is {brief(value)}; only GPT-2 with {accepted[0]!r} is computed here")
    kinds = fields.get("architectures") or []
    if not isinstance(kinds, list) or not all(isinstance(kind, str) and kind.startswith("GPT2") for kind in kinds):
        raise CheckpointError(f"{path}: architectures is {brief(kinds)}; only GPT-2 (GPT2LMHeadModel) is computed here")

    def size(key, most=MOST):
        if key not in fields:
            raise CheckpointError(f"{path}: {key} is missing; it must be a whole number from 1 to {most}")
        if type(fields[key]) is not int or not 1 <= fields[key] <= most:
            raise CheckpointError(f"{path}: {key} is {brief(fields[key])}; it must be a whole number from 1 to {most}")
        return fields[key]

    n_embd, n_head = size("n_embd"), size("n_head")
    if n_embd % n_head:
        raise CheckpointError(f"{path}: n_embd = {n_embd} does not divide into n_head = {n_head} heads of equal width")
    epsilon = fields.get("layer_norm_epsilon", 1e-5)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise CheckpointError(f"{path}: layer_norm_epsilon is {brief(epsilon)}; it must be from 0 to 1 (GPT-2: 1e-05)")
    return Config(
        n_layer=size("n_layer", MOST_LAYERS),
        n_head=n_head,
        n_embd=n_embd,
        n_ctx=size("n_ctx" if "n_ctx" in fields and "n_positions" not in fields else "n_positions"),
        n_vocab=size("vocab_size"),
        d_mlp=4 * n_embd if fields.get("n_inner") is None else size("n_inner"),
        layer_norm_epsilon=float(epsilon),
    )
