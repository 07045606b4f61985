"""A state dict of nanoGPT or minGPT becomes a folder that GPT2.from_pretrained reads:

    python -m minigpt2.convert ckpt.safetensors FOLDER --n-head 12 --vocabulary gpt2

Such models name their weights as GPT-2's checkpoint does and differ in how they keep them: every matrix transposed
([n_out, n_in], as torch.nn.Linear has it), wrappers' prefixes before the names, no biases at all where the model was
made with bias=False, the causal mask among the weights, the embedding a second time as lm_head. That is undone here; what
is left must be exactly a GPT-2, by the check of every checkpoint (shapes.py). Pickles are never opened.
"""

import re
import sys
from pathlib import Path

import numpy as np

from .errors import CheckpointError, VocabularyError
from .model import Config
from .terminal import Parser, brief, filled, guarded, printable, warn

PREFIXES = ("_orig_mod.", "module.", "transformer.")  # torch.compile's, DistributedDataParallel's, and the model's own
SAVE = (
    "from safetensors.torch import save_file; "
    "state = torch.load({path!r}, map_location='cpu', weights_only=True); state = state.get('model', state); "
    "save_file({{name: tensor.clone().contiguous() for name, tensor in state.items()}}, {safe!r})"
)
GELU = (
    "today's nanoGPT computes the erf form of GELU, this package the tanh form, which is GPT-2's, minGPT's and older "
    "nanoGPT's: a model that was trained with the erf form gives slightly different logits here"
)


def convert(path, folder, n_head, vocabulary=None):
    """Write the model of a safetensors file at `path` into a new folder; returns its Config.

    n_head is the number of attention heads, which no weight shows. vocabulary is a folder with vocab.json and merges.txt
    to copy, or None. Raises CheckpointError for what is not a GPT-2, OSError for what cannot be read or written.
    """
    from .checkpoint.tensors import TensorFile, read_tensor
    from .checkpoint.weights import check_tied, save_folder
    from .shapes import check_config, check_shapes, nest

    folder = Path(folder)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is there already and not empty: give the name of a new folder")
    with TensorFile(Path(path)) as file:
        stored = read_state(file)
        turned = is_transposed(stored, path)
        shapes = {
            name: tensor.shape[::-1] if turned and is_matrix(name) else tensor.shape for name, tensor in stored.items()
        }
        config = find_sizes(shapes, n_head, path)
        check_config(config, path)
        shapes |= missing_biases(config, shapes)
        check_shapes(config, shapes, f"the weights in {path}", "these sizes")

        tokenizer = vocabulary and read_vocabulary(Path(vocabulary), config)
        dtype = np.float64 if any(tensor.dtype == "F64" for tensor in stored.values()) else np.float32
        arrays = {name: np.zeros(shape, dtype) for name, shape in shapes.items() if name not in stored}
        arrays |= {
            name: read_tensor(name, tensor, dtype) for name, tensor in stored.items() if name != "lm_head.weight"
        }
        if "lm_head.weight" in stored:
            check_tied(stored["lm_head.weight"], arrays["wte.weight"])
        arrays = {
            name: array.T if turned and is_matrix(name) and name in stored else array for name, array in arrays.items()
        }
    save_folder(folder, config, nest(arrays), dtype, tokenizer.end_of_text if tokenizer else None)
    if tokenizer:
        copy_vocabulary(Path(vocabulary), folder)
    return config


def read_state(file):
    """Every weight of a state dict, an open TensorFile, under GPT-2's own name: {name: header.Stored}, the masks left out."""
    from .checkpoint.header import read_header

    path, start = file.path, file.read(4, 0)
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        safe = str(path.with_suffix(".safetensors"))
        raise CheckpointError(
            f"{path} is a pickle, which can run code and is never opened; where it is trusted, save it anew with PyTorch: "
            f"import torch; {SAVE.format(path=str(path), safe=safe)}"
        )
    found = {}
    for name, tensor in read_header(file).items():
        short = without_prefixes(name)
        if short in found:
            raise CheckpointError(f"{path} holds {brief(short)} twice, once as {brief(name)}: save one model alone")
        if not re.fullmatch(r"h\.\d+\.attn\.(bias|masked_bias)", short):  # the causal mask, not a weight
            found[short] = tensor
    if "wte.weight" not in found and "lm_head.weight" in found:  # safetensors' save_model keeps one of the two
        found["wte.weight"] = found.pop("lm_head.weight")
    return found


def without_prefixes(name):
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def is_matrix(name):
    return re.fullmatch(r"h\.\d+\.(attn|mlp)\.c_\w+\.weight", name) is not None


def is_transposed(stored, path):
    """Whether the matrices are [n_out, n_in]: c_attn, which is never square, tells it of every layer."""
    shapes = {
        name: tensor.shape for name, tensor in stored.items() if re.fullmatch(r"h\.\d+\.attn\.c_attn\.weight", name)
    }
    if not shapes or "wte.weight" not in stored or len(stored["wte.weight"].shape) != 2:
        raise CheckpointError(
            f"{path} has no wte.weight and h.0.attn.c_attn.weight, so it is not a state dict of nanoGPT, minGPT or GPT-2; "
            f"it has {brief(list(stored)[:3])}"
        )
    n = stored["wte.weight"].shape[1]
    found = {shape == (3 * n, n) for shape in shapes.values() if shape in ((3 * n, n), (n, 3 * n))}
    if len(found) != 1:
        name, shape = next(iter(shapes.items()))
        raise CheckpointError(
            f"{path}: {name} has shape {brief(list(shape))}; with n_embd = {n} all of them must be [{3 * n}, {n}], or all "
            f"[{n}, {3 * n}]"
        )
    return found.pop()


def find_sizes(shapes, n_head, path):
    """The Config that the weights' shapes show, but for n_head."""
    n_layer = len({name.split(".")[1] for name in shapes if re.match(r"h\.\d+\.", name)})
    for name in ("wpe.weight", "h.0.mlp.c_fc.weight"):
        if len(shapes.get(name, ())) != 2:
            raise CheckpointError(f"{path} has no {name} of two axes, so it is not a GPT-2")
    n_vocab, n_embd = shapes["wte.weight"]
    return Config(n_layer, n_head, n_embd, shapes["wpe.weight"][0], n_vocab, shapes["h.0.mlp.c_fc.weight"][1])


def missing_biases(config, shapes):
    """The shapes of all biases where a model has none at all (bias=False), else nothing."""
    from .shapes import expected_shapes

    biases = {name: shape for name, shape in expected_shapes(config).items() if name.endswith(".bias")}
    return {} if biases.keys() & shapes.keys() else biases


# The vocabulary


def find_vocabulary(name):
    """The folder that --vocabulary means: GPT-2's own from the Hub or its cache for "gpt2", None for "none"."""
    if name == "none":
        return None
    if name != "gpt2":
        return Path(name)
    from .checkpoint import hub

    return hub.vocabulary("gpt2", Path(hub.PINNED[hub.repository("gpt2")]))


def read_vocabulary(folder, config):
    """The Tokenizer of a folder; ValueError for one that cannot be this model's."""
    from .checkpoint.weights import load_tokenizer

    tokenizer = load_tokenizer(folder)
    if tokenizer.n_vocab > config.n_vocab:
        raise VocabularyError(
            f"{tokenizer.path} and what is beside it have {tokenizer.n_vocab} tokens, more than the model's n_vocab of "
            f"{config.n_vocab}: take the vocabulary that the model was trained with"
        )
    return tokenizer


def copy_vocabulary(source, folder):
    from .atomic import replacing
    from .checkpoint.tensors import open_file
    from .checkpoint.vocabulary import FILES

    for name in FILES:
        if (source / name).is_file():
            with open_file(source / name) as file, replacing(folder / name) as temporary:
                temporary.write_bytes(file.read())


# The command


def main(arguments=None):
    p = Parser(prog="python -m minigpt2.convert", description="Make a model folder of a nanoGPT or minGPT checkpoint.")
    p.add_argument("checkpoint", type=filled, metavar="CKPT.safetensors", help="its state dict; pickles are not opened")
    p.add_argument("folder", type=filled, metavar="FOLDER", help="the folder to make")
    p.add_argument("--n-head", type=int, required=True, metavar="N", help="attention heads; the weights do not show it")
    says = "gpt2, a folder with vocab.json and merges.txt, or none (the default): the model then reads token ids alone"
    p.add_argument("--vocabulary", type=filled, default="none", metavar="WHICH", help=says)
    args = p.parse_args(arguments)
    vocabulary = find_vocabulary(args.vocabulary)
    config = convert(args.checkpoint, args.folder, args.n_head, vocabulary)
    print(printable(f"Written: {args.folder} ({', '.join(f'{k} {v}' for k, v in vars(config).items())})"))
    if vocabulary:
        n = read_vocabulary(vocabulary, config).n_vocab
        if n < config.n_vocab:
            print(f"Token ids {n} to {config.n_vocab - 1} are padding: no text has them, and they keep their logits.")
    warn(GELU)


if __name__ == "__main__":
    sys.exit(guarded(main))
