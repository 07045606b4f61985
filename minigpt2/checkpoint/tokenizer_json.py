"""tokenizer.json: a vocabulary with everything that is done to a text, refused where bpe.py does something else."""

from typing import NamedTuple

from .added import BUILT_ON_GPT2
from .ids import read_ids, read_merge, read_object, refused

KNOWN = {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
         "model"}  # fmt: skip
MODEL = {  # any other value makes other ids
    "type": ("BPE",),
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


class TokenizerJson(NamedTuple):
    ids: dict
    merges: list
    added: list  # of objects with an id and a content
    prefix_space: bool
    bos: int | None  # what it puts before a text


def read_tokenizer_json(path, config):
    """Read tokenizer.json; config, tokenizer_config.json's, must not contradict it."""
    fields = read_object(path)
    for key in fields.keys() - KNOWN:
        raise refused(path, key, fields[key], "that key is not known")
    for part in parts(fields.get("normalizer"), "normalizers"):
        raise refused(path, "normalizer", kind(part), "texts are read as they are")
    for part in parts(fields.get("decoder"), "decoders"):
        if kind(part) != "ByteLevel":
            raise refused(path, "decoder", kind(part), "only ByteLevel is read here")
    prefix_space = read_pre_tokenizer(path, parts(fields.get("pre_tokenizer"), "pretokenizers"))
    bos = read_post_processor(path, parts(fields.get("post_processor"), "processors"))
    prefix_space = reconcile(path, config, prefix_space, bos)
    added = fields.get("added_tokens", [])
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise refused(path, "added_tokens", added, "a list of objects was expected")
    return TokenizerJson(*read_model(path, fields.get("model")), added, prefix_space, bos)


def parts(part, key):
    """A normalizer, pre-tokenizer or the like as the list of steps that it is."""
    if isinstance(part, dict) and part.get("type") == "Sequence" and isinstance(part.get(key), list):
        return part[key]
    return [] if part is None else [part]


def kind(part):
    return part.get("type") if isinstance(part, dict) else part


def read_pre_tokenizer(path, steps):
    """Refuse all but ByteLevel, which is bpe.split; return its add_prefix_space."""
    if [kind(step) for step in steps] != ["ByteLevel"]:
        raise refused(path, "pre_tokenizer", [kind(step) for step in steps], "only ByteLevel alone is read here")
    [step] = steps
    if step.get("use_regex", True) is not True:
        raise refused(path, "pre_tokenizer.use_regex", step["use_regex"], "only true is read here")
    if type(step.get("add_prefix_space")) is not bool:
        raise refused(
            path, "pre_tokenizer.add_prefix_space", step.get("add_prefix_space"), "true or false was expected"
        )
    return step["add_prefix_space"]


def read_post_processor(path, steps):
    """Return the id that is put before a text, or None; refuse what does more."""
    template = [step for step in steps if kind(step) == "TemplateProcessing"]
    if len(template) > 1 or any(kind(step) not in ("TemplateProcessing", "ByteLevel") for step in steps):
        names = [kind(step) for step in steps]
        raise refused(path, "post_processor", names, "only ByteLevel and TemplateProcessing are read here")
    if not template:
        return None
    try:
        single = [{name: piece["id"] for name, piece in each.items()} for each in template[0]["single"]]
        if single == [{"Sequence": "A"}]:
            return None
        first, then = single
        [token] = template[0]["special_tokens"][first["SpecialToken"]]["ids"]
        if then == {"Sequence": "A"} and type(token) is int:
            return token
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise refused(
        path, "post_processor.single", template[0].get("single"), "only one token before the text is read here"
    )


def reconcile(path, config, prefix_space, bos):
    """Return the add_prefix_space that counts; refuse what Hugging Face's classes, with these two files, read
    differently."""
    said = config.get("add_prefix_space")
    if config.get("tokenizer_class") in BUILT_ON_GPT2:  # transformers 4 and 5: what tokenizer_config.json says
        doubtful = said is None and prefix_space
    else:
        doubtful = said is not None and said != prefix_space
    if doubtful:
        says = f"tokenizer_config.json {'does not say' if said is None else f'says {said}'}: state the same there"
        raise refused(path, "pre_tokenizer.add_prefix_space", prefix_space, says)
    if config.get("add_bos_token") and bos is None:
        says = "it adds no BOS, and tokenizer_config.json says add_bos_token: make them agree"
        raise refused(path, "post_processor", None, says)
    return prefix_space if said is None else said


def read_model(path, model):
    """The ids and merges of tokenizer.json's model."""
    if not isinstance(model, dict):
        raise refused(path, "model", model, "an object was expected")
    for key, value in model.items():
        if key in MODEL and value not in MODEL[key]:
            raise refused(path, f"model.{key}", value, f"only {MODEL[key][-1]!r} is read here")
        if key not in MODEL and key not in ("vocab", "merges", "unk_token", "fuse_unk"):
            raise refused(path, f"model.{key}", value, "that key is not known")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise refused(path, "model.merges", merges, "a list was expected")
    merges = [read_merge(f"merge {i} of {path}", merge) for i, merge in enumerate(merges, start=1)]
    return read_ids(path, model.get("vocab")), merges
