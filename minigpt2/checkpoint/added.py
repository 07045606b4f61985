"""The added tokens of a vocabulary: which there are, and the id that Hugging Face gives to each.

They stand in added_tokens.json, in special_tokens_map.json, in the added_tokens_decoder of tokenizer_config.json or in
tokenizer.json, and a token that is only named, as "pad_token": "[PAD]", is added too.
"""

from typing import NamedTuple

from ..errors import VocabularyError
from ..terminal import brief
from .ids import read_object, refused

END_OF_TEXT = "<|endoftext|>"  # stands between GPT-2's documents; no merge makes it
BUILT_ON_GPT2 = (None, "GPT2Tokenizer", "GPT2TokenizerFast")
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
MORE_NAMED = ("additional_special_tokens", "extra_special_tokens")
MOST_ADDED = 10_000


class AddedToken(NamedTuple):
    text: str
    id: int
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it
    normalized: bool = False  # looked for after those that are not
    special: bool = True  # text like any other where the caller says so
    assumed: bool = False  # named by no file: Hugging Face adds GPT-2's <|endoftext|> to every vocabulary


def collect_added(path, ids, stated, config, folder):
    """Collect the added tokens in the order in which Hugging Face adds them, which gives those that no file gives an id
    the next free one: (list of AddedToken, {"bos_token": its text, ...})."""
    gpt2 = config.get("tokenizer_class") in BUILT_ON_GPT2
    source = folder / "tokenizer_config.json" if folder else path
    entries = [(path, token.get("id", "missing"), token) for token in stated]
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
        isinstance(fields, dict) and key.isdecimal() and len(key) < 10 for key, fields in decoder.items()
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
