"""config.json: the sizes of a GPT-2, and the refusal of whatever model.py would compute wrongly."""

from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from ..model import Config
from ..shapes import MOST, MOST_LAYERS, check_config, whole
from ..terminal import brief
from .tensors import read_json

MUST_BE = {  # any other value computes something that model.py does not; None: the key is absent
    "model_type": ["gpt2"],
    "activation_function": ["gelu_new", "gelu_pytorch_tanh", None],  # two names of the tanh form, and the default
    "scale_attn_weights": [True, None],
    "scale_attn_by_inverse_layer_idx": [False, None],
    "add_cross_attention": [False, None],
    "tie_word_embeddings": [True, None],
}


OTHER_NAMES = {  # those of transformers' GPT2Config.attribute_map, which reads either
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def read_config(folder):
    """Read a GPT-2's sizes from config.json; refuse a model that model.py does not compute."""
    path = Path(folder) / "config.json"
    if (Path(folder) / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json), which changes another model's weights: merge the two, in "
            "PEFT with model.merge_and_unload().save_pretrained(FOLDER), and give that folder"
        )
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: a model folder holds config.json and model.safetensors")
    fields = with_gpt2_names(read_json(path), path)
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
        return whole(fields[key], key, most, path)

    n_embd = size("n_embd")
    config = Config(
        n_layer=size("n_layer", MOST_LAYERS),
        n_head=size("n_head"),
        n_embd=n_embd,
        n_ctx=size("n_ctx" if "n_ctx" in fields and "n_positions" not in fields else "n_positions"),
        n_vocab=size("vocab_size"),
        d_mlp=4 * n_embd if fields.get("n_inner") is None else size("n_inner"),
        layer_norm_epsilon=fields.get("layer_norm_epsilon", 1e-5),
    )
    check_config(config, path)
    return replace(config, layer_norm_epsilon=float(config.layer_norm_epsilon))


def with_gpt2_names(fields, path):
    """The fields of a config.json under GPT-2's names for the sizes; CheckpointError where two names disagree."""
    for other, name in OTHER_NAMES.items():
        if other in fields and fields.setdefault(name, fields[other]) != fields[other]:
            raise CheckpointError(
                f"{path}: {other} is {brief(fields[other])} and {name} is {brief(fields[name])}, two names of one size"
            )
    return fields
