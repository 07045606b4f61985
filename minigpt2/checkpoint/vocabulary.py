"""The files of a vocabulary, read as Hugging Face's GPT-2 tokenizer reads them (transformers 5), or refused.

tokenizer.json holds everything; without it vocab.json holds the ids and merges.txt the merges. tokenizer_config.json,
and in older checkpoints added_tokens.json and special_tokens_map.json, add tokens and say what stands before a text.
What is not understood, and what Hugging Face's own classes read in two ways, is refused: a wrong id shows nowhere.
"""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from ..errors import VocabularyError
from .tensors import brief

END_OF_TEXT = "<|endoftext|>"  # stands between GPT-2's documents; no merge makes it
FILES = (
    "vocab.json", "merges.txt", "tokenizer.json",
    "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip

LONGEST = 1 << 24  # bytes of one file; the longest of GPT-2's has 1.4 million
LONGEST_TOKEN = 4096  # letters; GPT-2's longest token has 128
MOST_TOKENS, MOST_ADDED = 1 << 20, 10_000

BUILT_ON_GPT2 = (None, "GPT2Tokenizer", "GPT2TokenizerFast")
BUILT_ON_TOKENIZER_JSON = ("PreTrainedTokenizerFast", "TokenizersBackend")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE_NAMED = ("additional_special_tokens", "extra_special_tokens")


class AddedToken(NamedTuple):
    text: str
    id: int
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    normalized: bool = False  # looked for after those that are not
    special: bool = True  # text like any other where the caller says so
    assumed: bool = False  # named by no file: Hugging Face adds GPT-2's <|endoftext|> to every vocabulary


@dataclass
class Vocabulary:
    path: Path  # the file that holds the ids
    ids: dict  # token in byte letters: id
    merges: list  # of (left, right), in byte letters
    added: list  # of AddedToken
    prefix_space: bool = False  # whether a text that does not begin with a space is given one
    bos: int | None = None  # the token that may stand before a text
    adds_bos: bool = False  # whether it is put there unasked


def read_pair(vocab_path, merges_path):
    """Read vocab.json and merges.txt, nothing beside them."""
    path = Path(vocab_path)
    return read_two(path, Path(merges_path), {}, None)


def read_folder(folder):
    """Read whatever files of a vocabulary a folder has; has_vocabulary(folder) must hold."""
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_tokenizer_json(path, config, folder)
    name = config.get("tokenizer_class")
    if name in BUILT_ON_TOKENIZER_JSON:
        raise refused(
            folder / "tokenizer_config.json", "tokenizer_class", name, "that reads tokenizer.json, which is missing"
        )
    return read_two(folder / "vocab.json", folder / "merges.txt", config, folder)


def read_two(path, merges_path, config, folder):
    ids, merges = read_ids(path, read_object(path)), read_merges(merges_path)
    vocabulary = with_settings(path, ids, merges, [], None, config, folder)
    check_whole(vocabulary, merges_path)
    return vocabulary


def has_vocabulary(folder):
    files = [name for name in FILES if (Path(folder) / name).is_file()]
    return "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= set(files)


def with_settings(path, ids, merges, stated, adds, config, folder=None):
    """Put a Vocabulary together. stated are tokenizer.json's added tokens, adds whether it puts a BOS before a text:
    None where there is no tokenizer.json, else (id or None,)."""
    check_merges(path, ids, merges)
    added, named = collect_added(path, ids, stated, config, folder)
    bos = next((t.id for t in added if t.text == named.get("bos_token")), None)
    adds_bos = bool(config.get("add_bos_token")) and bos is not None if adds is None else adds[0] is not None
    if adds and adds_bos:
        bos = adds[0]
    return Vocabulary(path, ids, merges, added, bool(config.get("add_prefix_space")), bos, adds_bos)


# tokenizer_config.json


def read_config(folder):
    """Read tokenizer_config.json, {} where there is none, and refuse the settings that are not honoured."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    config = read_object(path)
    known = (*BUILT_ON_GPT2, *BUILT_ON_TOKENIZER_JSON)
    if config.get("tokenizer_class") not in known:
        raise refused(path, "tokenizer_class", config["tokenizer_class"], "only GPT2Tokenizer's vocabularies are read")
    for key in ("add_prefix_space", "add_bos_token", "add_eos_token", "split_special_tokens"):
        if config.get(key) is not None and type(config[key]) is not bool:
            raise refused(path, key, config[key], "true or false was expected")
    for key in ("add_eos_token", "split_special_tokens"):
        if config.get(key):
            raise refused(path, key, config[key], "only false is read here")
    if config.get("auto_map"):
        raise refused(path, "auto_map", config["auto_map"], "code that comes with a model is never run")
    return config


# tokenizer.json


def read_tokenizer_json(path, config, folder):
    fields = read_object(path)
    for key in fields.keys() - {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                "post_processor", "decoder", "model"}:  # fmt: skip
        raise refused(path, key, fields[key], "that key is not known")
    for part in parts(fields.get("normalizer"), "normalizers"):
        raise refused(path, "normalizer", kind(part), "texts are read as they are")
    for part in parts(fields.get("decoder"), "decoders"):
        if kind(part) != "ByteLevel":
            raise refused(path, "decoder", kind(part), "only ByteLevel is read here")
    prefix_space = read_pre_tokenizer(path, parts(fields.get("pre_tokenizer"), "pretokenizers"))
    bos = read_post_processor(path, parts(fields.get("post_processor"), "processors"))
    config = reconcile(path, config, prefix_space, bos)
    ids, merges = read_model(path, fields.get("model"))
    stated = fields.get("added_tokens", [])
    if not isinstance(stated, list) or not all(isinstance(token, dict) for token in stated):
        raise refused(path, "added_tokens", stated, "a list of objects was expected")
    vocabulary = with_settings(path, ids, merges, stated, (bos,), config, folder)
    if bos is not None and bos not in [token.id for token in vocabulary.added]:
        raise refused(path, "post_processor", bos, "the id that it puts before a text is not a special token's")
    check_same(vocabulary, folder)
    return vocabulary


def parts(part, key):
    """A normalizer, pre-tokenizer or the like as the list of steps that it is."""
    if isinstance(part, dict) and part.get("type") == "Sequence" and isinstance(part.get(key), list):
        return [one for each in part[key] for one in parts(each, key)]
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
    """tokenizer_config.json with tokenizer.json's add_prefix_space where that counts; refuse what the two contradict
    each other in and Hugging Face's classes read differently."""
    said = config.get("add_prefix_space")
    if config.get("tokenizer_class") in BUILT_ON_GPT2:  # transformers 4 and 5: what tokenizer_config.json says
        doubtful = said is None and prefix_space
    else:
        doubtful = said is not None and said != prefix_space
    if doubtful:
        says = "does not say" if said is None else f"says {json.dumps(said)}"
        raise refused(
            path, "pre_tokenizer.add_prefix_space", prefix_space, f"tokenizer_config.json {says}: state the same there"
        )
    if config.get("add_bos_token") and bos is None:
        raise refused(
            path,
            "post_processor",
            None,
            "it adds no BOS, and tokenizer_config.json says add_bos_token: make them agree",
        )
    return config | {"add_prefix_space": prefix_space if said is None else said}


def read_model(path, model):
    """The ids and merges of tokenizer.json's model."""
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise refused(path, "model.type", kind(model), "only BPE is read here")
    accepted = {"dropout": (None, 0), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""),
                "byte_fallback": (None, False), "ignore_merges": (None, False)}  # fmt: skip
    for key, value in model.items():
        if key in accepted and value not in accepted[key]:
            raise refused(path, f"model.{key}", value, f"only {accepted[key][1]!r} is read here")
        if key not in accepted and key not in ("type", "vocab", "merges", "unk_token", "fuse_unk"):
            raise refused(path, f"model.{key}", value, "that key is not known")
    ids = read_ids(path, model.get("vocab"))
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise refused(path, "model.merges", merges, "a list was expected")
    return ids, [read_merge(f"merge {i} of {path}", merge) for i, merge in enumerate(merges, start=1)]


def check_same(vocabulary, folder):
    """Refuse a vocab.json or merges.txt beside tokenizer.json that says something else."""
    known = vocabulary.ids | {token.text: token.id for token in vocabulary.added}
    path = folder / "vocab.json"
    if path.is_file():
        ids = read_ids(path, read_object(path))
        if any(
            known.get(token) != token_id for token, token_id in ids.items()
        ) or vocabulary.ids.keys() - ids.keys() - {token.text for token in vocabulary.added}:
            raise VocabularyError(
                f"{path} and {vocabulary.path} hold different tokens: remove the one that is not the model's"
            )
    path = folder / "merges.txt"
    if path.is_file() and read_merges(path) != vocabulary.merges:
        raise VocabularyError(
            f"{path} and {vocabulary.path} hold different merges: remove the one that is not the model's"
        )


# Added tokens


def collect_added(path, ids, stated, config, folder):
    """Collect the added tokens in the order in which Hugging Face adds them, which gives those that no file gives an id
    the next free one: (list of AddedToken, {"bos_token": its text, ...})."""
    gpt2 = config.get("tokenizer_class") in BUILT_ON_GPT2
    source = folder / "tokenizer_config.json" if folder else path
    entries = [(path, token.get("id"), token) for token in stated]
    decoder = config.get("added_tokens_decoder")
    if decoder is not None:
        entries += read_decoder(source, decoder, [token.get("content") for token in stated] if gpt2 else [])
    elif folder:
        file = folder / "added_tokens.json"
        older = read_object(file) if file.is_file() else {}
        entries = [(file, number, {"content": text, "special": False}) for text, number in older.items()] + entries
        if (folder / "special_tokens_map.json").is_file():
            source = folder / "special_tokens_map.json"
            config = config | read_object(source)
    named = read_named(source, config, gpt2)
    texts = {key: content(source, key, token) for key, token in named.items()}
    if len(entries) + len(named) > MOST_ADDED:
        raise VocabularyError(
            f"{source} and what is beside it add {len(entries) + len(named):,} tokens; at most {MOST_ADDED:,} are read"
        )
    collected = Collected(ids)
    for file, number, fields in sorted(entries, key=lambda entry: entry[1] if type(entry[1]) is int else -1):
        collected.add(file, fields, named=fields.get("content") in texts.values(), number=number)
    for key, text in texts.items():
        if text not in collected.added:
            fields = named[key] if isinstance(named[key], dict) else {"content": text}
            collected.add(source, fields, named=True, assumed=gpt2 and key not in config)
    return list(collected.added.values()), texts


def read_decoder(path, decoder, elsewhere):
    """The entries of tokenizer_config.json's added_tokens_decoder, {"50257": {"content": ...}}."""
    if not isinstance(decoder, dict) or not all(
        isinstance(fields, dict) and key.isdecimal() for key, fields in decoder.items()
    ):
        raise refused(path, "added_tokens_decoder", decoder, "an object of id: object was expected")
    missing = [text for text in elsewhere if text not in [fields.get("content") for fields in decoder.values()]]
    if missing:
        raise refused(
            path, "added_tokens_decoder", decoder, f"tokenizer.json also adds {brief(missing[0])}: make them agree"
        )
    return [(path, int(key), fields) for key, fields in decoder.items()]


def read_named(path, config, gpt2):
    """{"bos_token": its text or object, ...}: the tokens that a part is given to, and are added where they are new."""
    named = {key: config.get(key, END_OF_TEXT if gpt2 and i < 3 else None) for i, key in enumerate(NAMED)}
    for key, value in config.items():
        if key in MORE_NAMED and value:
            if not isinstance(value, (list, dict)):
                raise refused(path, key, value, "a list was expected")
            named |= value if isinstance(value, dict) else {f"{key}[{i}]": each for i, each in enumerate(value)}
        elif key.endswith("_token") and not key.startswith("add_") and isinstance(value, str):
            named[key] = value
    return {key: value for key, value in named.items() if value is not None}


def content(path, key, value):
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise refused(path, key, value, "a token's text was expected")
    return text


class Collected:
    """Added tokens by their text, each at the id that Hugging Face gives it: the vocabulary's, or the next free one."""

    def __init__(self, ids):
        self.ids, self.next_id, self.added = ids, len(ids), {}

    def add(self, path, fields, named, number=None, assumed=False):
        text = content(path, "content", fields)
        special = named or bool(fields.get("special"))
        flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": not special}
        flags = {key: fields.get(key, default) for key, default in flags.items()}
        for key, flag in flags.items():
            if type(flag) is not bool or key == "single_word" and flag:
                raise refused(
                    path,
                    key,
                    flag,
                    f"{brief(text)} has it, and only {'false' if flag is True else 'true or false'} is read here",
                )
        del flags["single_word"]
        old = self.added.get(text)
        token = AddedToken(
            text, old.id if old else self.ids.get(text, self.next_id), **flags, special=special, assumed=assumed
        )
        if number not in (None, token.id) or type(number) is bool:
            whose = "the next free one" if token.id == self.next_id else "as the vocabulary does"
            raise refused(path, f"the id of {brief(text)}", number, f"Hugging Face gives it {token.id}, {whose}")
        if old and (old.lstrip, old.rstrip) != (token.lstrip, token.rstrip):
            raise refused(path, "lstrip or rstrip", brief(text), "another file has it otherwise: make them agree")
        if text:  # Hugging Face adds no empty token
            self.added[text] = token
            self.next_id += token.id == self.next_id


# Ids and merges


def read_ids(path, ids):
    """Check {token in byte letters: id}, the ids being 0 to n - 1."""
    if not isinstance(ids, dict) or not ids or any(type(token_id) is not int for token_id in ids.values()):
        raise VocabularyError(f"{path} must hold one JSON object of token: id, with integer ids; is it a vocab.json?")
    if len(ids) > MOST_TOKENS or len(max(ids, key=len)) > LONGEST_TOKEN:
        raise VocabularyError(
            f"{path} has {len(ids):,} tokens, the longest of {len(max(ids, key=len)):,} letters; at most {MOST_TOKENS:,} "
            f"of {LONGEST_TOKEN:,} are read"
        )
    if "" in ids:
        raise VocabularyError(f"{path} has a token without a letter, id {ids['']}; fetch the file again")
    ordered = sorted(ids.values())
    if ordered[0] != 0 or any(b != a + 1 for a, b in pairwise(ordered)):
        raise VocabularyError(f"{path} has {len(ids)} tokens, but their ids are not 0 to {len(ids) - 1}, once each")
    return ids


def read_merges(path):
    """Read merges.txt: list of (left, right)."""
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [read_merge(f"line {i} of {path}", line) for i, line in lines if line and not line.startswith("#version")]


def read_merge(place, merge):
    pair = tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) if isinstance(merge, list) else ()
    if len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
        raise VocabularyError(f"{place} is {brief(merge)}; it must be two tokens with one space between them")
    return pair


def check_merges(path, ids, merges):
    if len(merges) > MOST_TOKENS:
        raise VocabularyError(f"{path} has {len(merges):,} merges; at most {MOST_TOKENS:,} are read")
    for number, (left, right) in enumerate(merges, start=1):
        if left not in ids or right not in ids or left + right not in ids:
            token = next(t for t in (left, right, left + right) if t not in ids)
            raise VocabularyError(
                f"merge {number} joins {brief(left)} and {brief(right)}, and {path} has no token {brief(token)}; take the ids and the merges from one checkpoint"
            )


def check_whole(vocabulary, merges_path):
    """Refuse a merges.txt whose end is missing: Hugging Face reads it, and cuts text into smaller pieces."""
    ids, added = vocabulary.ids, {token.text for token in vocabulary.added}
    made = {left + right for left, right in vocabulary.merges}
    rest = [token for token in ids.keys() - made - added if len(token) > 1]
    first = min(rest, key=ids.get, default="")
    halves = [(first[:i], first[i:]) for i in range(1, len(first))]
    if any(a in ids and b in ids for a, b in halves) and ids[first] > max((ids[token] for token in made), default=-1):
        raise VocabularyError(
            f"{merges_path} ends before the merge that makes {brief(first)}, which {vocabulary.path} has as token "
            f"{ids[first]}: fetch the file again"
        )


# Files


def read_object(path):
    text = read_text(path)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path} is not JSON ({error}); fetch the file again") from None
    if not isinstance(fields, dict):
        raise VocabularyError(f"{path} must be one JSON object; fetch the file again")
    return fields


def read_text(path):
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
        text = data.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror}; give vocab.json and merges.txt") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path} is not UTF-8 text (byte {error.start}); fetch the file again") from None
    if len(data) > LONGEST:
        raise VocabularyError(f"{path} is longer than {LONGEST:,} bytes and no GPT-2's; fetch the file again")
    return text


def refused(path, key, value, why):
    return VocabularyError(f"{path}: {key} is {brief(value)}; {why}")
