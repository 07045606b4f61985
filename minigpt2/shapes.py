"""The sizes of a GPT-2 and the names and shapes of its weights: one table, and one check that loading a checkpoint and
GPT2(config, weights) share. Everything else about weights, how they are read and written, is weights.py's.
"""

import re

import numpy as np

from .errors import CheckpointError
from .model import MLP, Affine, Attn, Block, Config, Weights
from .terminal import brief

# Sizes

MOST_LAYERS, MOST = 1_000, 10_000_000  # far above any GPT-2, so that an absurd config costs neither time nor memory


def check_config(config, where="the config"):
    """Refuse sizes that no GPT-2 can have, whoever made the Config."""
    if not isinstance(config, Config):
        raise CheckpointError(f"{where} must be a minigpt2.Config, got {type(config).__name__}")
    for name in ("n_layer", "n_head", "n_embd", "n_ctx", "n_vocab", "d_mlp"):
        whole(getattr(config, name), name, MOST_LAYERS if name == "n_layer" else MOST, where)
    if config.n_embd % config.n_head:
        raise CheckpointError(
            f"{where}: n_embd = {config.n_embd} does not divide into n_head = {config.n_head} heads of equal width"
        )
    epsilon = config.layer_norm_epsilon
    if not isinstance(epsilon, (int, float)) or isinstance(epsilon, bool) or not 0 <= epsilon < 1:
        raise CheckpointError(f"{where}: layer_norm_epsilon is {brief(epsilon)}; it must be from 0 to 1 (GPT-2: 1e-05)")


def whole(value, name, most, where):
    """value if it is a whole number from 1 to `most`, or a CheckpointError that names it."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 1 <= value <= most:
        raise CheckpointError(f"{where}: {name} is {brief(value)}; it must be a whole number from 1 to {most}")
    return value


# Names and shapes


def expected_shapes(config):
    """Name and shape of every weight of a GPT-2: what a checkpoint must hold."""
    c = config
    block = {
        "ln_1": (c.n_embd,),
        "attn.c_attn": (c.n_embd, 3 * c.n_embd),
        "attn.c_proj": (c.n_embd, c.n_embd),
        "ln_2": (c.n_embd,),
        "mlp.c_fc": (c.n_embd, c.d_mlp),
        "mlp.c_proj": (c.d_mlp, c.n_embd),
    }
    affine = {f"h.{layer}.{name}": shape for layer in range(c.n_layer) for name, shape in block.items()}
    shapes = {"wte.weight": (c.n_vocab, c.n_embd), "wpe.weight": (c.n_ctx, c.n_embd)}
    for name, shape in (affine | {"ln_f": (c.n_embd,)}).items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[-1:]
    return shapes


MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")  # of each layer, all [n_in, n_out]
WRAPPERS = {  # what is put before every name, and by whom
    "_orig_mod.": "torch.compile",
    "module.": "PyTorch's DistributedDataParallel",
    "base_model.model.": "PEFT",
    "model.": "a class around the model",
}


def check_weights(config, weights):
    """Refuse Weights that are not exactly the GPT-2 of config; return them with every array read-only, without a copy."""
    try:
        flat = flatten(weights)
    except (AttributeError, TypeError):
        raise CheckpointError(f"weights must be a minigpt2.model.Weights, got {type(weights).__name__}") from None
    for name, array in flat.items():
        if not isinstance(array, np.ndarray):
            raise CheckpointError(f"{name} must be a NumPy array, got {type(array).__name__}")
    check_shapes(config, {name: array.shape for name, array in flat.items()})
    dtypes = sorted({str(array.dtype) for array in flat.values()})
    if len(dtypes) > 1:
        raise CheckpointError(f"the weights must all have one dtype, float32 or float64, and are {', '.join(dtypes)}")
    check_dtype(flat["wte.weight"].dtype, "the weights must be float32 or float64, not")
    return nest({name: read_only_view(array) for name, array in flat.items()})


def read_only_view(array):
    if array.flags.writeable:  # its owner may go on writing; the model does not
        array = array.view()
        array.flags.writeable = False
    return array


def check_dtype(dtype, says="weights are loaded as float32 or float64, not as"):
    try:
        known = dtype is not None and np.dtype(dtype) in (np.float32, np.float64)
    except (TypeError, ValueError):
        known = False
    if not known:
        raise CheckpointError(f"{says} {dtype!r}")


def check_shapes(config, shapes, weights="the weights", sizes="the config"):
    """Refuse a dict of shapes by name that is not exactly expected_shapes, naming what differs.

    weights and sizes are what the message calls the two.
    """
    expected = expected_shapes(config)
    # Also in real files: the causal mask, which older transformers saved among the weights, and wte a second time.
    known = {f"h.{layer}.attn.{mask}" for layer in range(config.n_layer) for mask in ("bias", "masked_bias")}
    known |= expected.keys() | {"lm_head.weight"}
    faults = [f"{name} is missing" for name in expected if name not in shapes]
    faults += [f"{brief(name)} is not part of it" for name in shapes if name not in known]
    faults += [
        f"{name} has shape {brief(list(shapes[name]))}, not {list(shape)}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        cause = wrapped_names(shapes) or transposed(shapes, expected) or contradictions(config, shapes, sizes)
        raise CheckpointError(f"{weights} are not the GPT-2 of {sizes}: {'; '.join(faults[:3])}{more}{cause}")


def wrapped_names(shapes):
    """Say so if every name stands behind one prefix, as a clause, or ""."""
    for prefix, author in WRAPPERS.items():
        if shapes and all(name.startswith(prefix) for name in shapes):
            return (
                f". Every name begins with {prefix!r}, which {author} adds: python -m minigpt2.convert takes it off"
                + (", and a LoRA adapter must be merged first (merge_and_unload)" if author == "PEFT" else "")
            )
    return ""


def transposed(shapes, expected):
    """Say so if matrices are stored [n_out, n_in], as nanoGPT, minGPT and every torch.nn.Linear do, or ""."""
    oblong = [
        name for name in expected if re.search(r"c_(attn|fc|proj)\.weight$", name) and len(set(expected[name])) > 1
    ]
    turned = [name for name in oblong if shapes.get(name) == expected[name][::-1]]
    if not turned:
        return ""
    return (
        f". {'All' if len(turned) == len(oblong) else len(turned)} of the oblong matrices are transposed, [n_out, n_in], as "
        "nanoGPT and minGPT store them: then so is the square attn.c_proj.weight of each layer, whose shape cannot show it. "
        f"Transpose all four, {', '.join(MATRICES)}, of every layer; python -m minigpt2.convert does it"
    )


def contradictions(config, shapes, said_by="the config"):
    """Say which sizes in config.json the weights themselves speak against, if any."""
    sizes = {"n_layer": len({name.split(".")[1] for name in shapes if re.match(r"h\.\d+\.", name)})}
    for size, name, axis in (
        ("n_vocab", "wte.weight", 0),
        ("n_embd", "wte.weight", 1),
        ("n_ctx", "wpe.weight", 0),
        ("d_mlp", "h.0.mlp.c_fc.weight", 1),
    ):
        if len(shapes.get(name, ())) == 2:
            sizes[size] = shapes[name][axis]
    said = {size: getattr(config, size) for size in sizes}
    return "".join(f" ({said_by} says {k} = {said[k]}, the weights {sizes[k]})" for k in sizes if said[k] != sizes[k])


def nest(flat):
    """Arrays by checkpoint name -> Weights."""

    def affine(name):
        return Affine(flat[f"{name}.weight"], flat[f"{name}.bias"])

    def block(h):
        attn = Attn(affine(f"{h}.attn.c_attn"), affine(f"{h}.attn.c_proj"))
        mlp = MLP(affine(f"{h}.mlp.c_fc"), affine(f"{h}.mlp.c_proj"))
        return Block(affine(f"{h}.ln_1"), attn, affine(f"{h}.ln_2"), mlp)

    n_layer = len({name.split(".")[1] for name in flat if name.startswith("h.")})
    h = tuple(block(f"h.{layer}") for layer in range(n_layer))
    return Weights(flat["wte.weight"], flat["wpe.weight"], h, affine("ln_f"))


def flatten(weights):
    """Weights -> arrays by checkpoint name, in the order of expected_shapes: the inverse of nest."""
    flat = {"wte.weight": weights.wte, "wpe.weight": weights.wpe}

    def visit(name, part):
        for field, value in part._asdict().items():
            if isinstance(value, tuple):
                visit(f"{name}.{field}", value)
            else:
                flat[f"{name}.{field}"] = value

    for layer, h in enumerate(weights.h):
        visit(f"h.{layer}", h)
    visit("ln_f", weights.ln_f)
    return flat
