"""The files of a vocabulary, read as Hugging Face's GPT-2 tokenizer reads them (transformers 5), or refused.

tokenizer.json holds everything; without it vocab.json holds the ids and merges.txt the merges. tokenizer_config.json,
and in older checkpoints added_tokens.json and special_tokens_map.json, add tokens and say what stands before a text.
What is not understood, and what Hugging Face's own classes read in two ways, is refused: a wrong id shows nowhere.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import VocabularyError
from ..terminal import brief
from .added import BUILT_ON_GPT2, collect_added
from .ids import check_merges, read_ids, read_merges, read_object, refused
from .tokenizer_json import read_tokenizer_json

FILES = (
    "vocab.json", "merges.txt", "tokenizer.json",
    "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
BUILT_ON_TOKENIZER_JSON = ("PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass(frozen=True)
class Vocabulary:
    path: Path  # the file that holds the ids
    ids: dict  # token in byte letters: id
    merges: list  # of (left, right), in byte letters
    added: list  # of AddedToken
    prefix_space: bool = False  # whether a text that does not begin with a space is given one
    bos: int | None = None  # the token that may stand before a text
    adds_bos: bool = False  # whether it is put there unasked


def has_vocabulary(folder):
    files = [name for name in FILES if (Path(folder) / name).is_file()]
    return "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= set(files)


def read_pair(vocab_path, merges_path):
    """Read vocab.json and merges.txt, nothing beside them."""
    path = Path(vocab_path)
    return read_two(path, Path(merges_path), {}, None)


def read_folder(folder):
    """Read whatever files of a vocabulary a folder has; has_vocabulary(folder) must hold."""
    folder = Path(folder)
    config = read_config(folder)
    path, name = folder / "tokenizer.json", config.get("tokenizer_class")
    if path.is_file():
        return read_one(path, config, folder)
    if name in BUILT_ON_TOKENIZER_JSON:
        raise refused(
            folder / "tokenizer_config.json", "tokenizer_class", name, "tokenizer.json, which it reads, is missing"
        )
    return read_two(folder / "vocab.json", folder / "merges.txt", config, folder)


def read_two(path, merges_path, config, folder):
    ids, merges = read_ids(path, read_object(path)), read_merges(merges_path)
    vocabulary = put_together(path, ids, merges, [], config, folder)
    check_whole(vocabulary, merges_path)
    return vocabulary


def read_one(path, config, folder):
    file = read_tokenizer_json(path, config)
    config = config | {"add_prefix_space": file.prefix_space, "add_bos_token": False}
    vocabulary = put_together(path, file.ids, file.merges, file.added, config, folder)
    check_same(vocabulary, folder)
    if file.bos is None:
        return vocabulary
    if file.bos not in [token.id for token in vocabulary.added]:
        raise refused(path, "post_processor", file.bos, "the id that it puts before a text is not a special token's")
    return replace(vocabulary, bos=file.bos, adds_bos=True)


def put_together(path, ids, merges, stated, config, folder):
    check_merges(path, ids, merges)
    added, named = collect_added(path, ids, stated, config, folder)
    bos = next((token.id for token in added if token.text == named.get("bos_token")), None)
    adds_bos = bool(config.get("add_bos_token")) and bos is not None  # "bos_token": null adds none
    return Vocabulary(path, ids, merges, added, bool(config.get("add_prefix_space")), bos, adds_bos)


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
