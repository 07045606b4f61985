"""Vocabularies in the manner of real ones: the files of a folder, by name, and what must be refused.

GPT-2's own files stand behind all of them, whole or cut after the first 700 merges. tests/golden/vocabularies.json has
Hugging Face's ids for CASES (make_vocabularies.py), tests/test_vocabulary.py compares, and asks it again where it is
installed. Whose files each looks like is said beside it.
"""

import functools
import json
from pathlib import Path

from vocabulary import END_OF_TEXT, genuine_vocabulary, random_texts

TEXTS = [
    "", "Hello world", " Hello world", "\nHello", "12345 678 9", "I'll say it's   so\n\n  twice", "abc abcabc cab",
    "<|endoftext|>", "a <|endoftext|> b<|endoftext|>", "<|BOS|>Great<|SEP|>", "<s>x  <mask> y</s> <pad>[PAD]", "<a><b><a>",
    "x<z>y  <z>\n z", "<unk> <image> end]", "na\u00efve \u6f22\u5b57 \U0001f600", "x [end] [end]\t\ty",
    *random_texts(seed=11, n=12),
]  # fmt: skip


@functools.cache
def gpt2(n_merges=None):
    """(ids, merges) of GPT-2, or of its first n_merges merges with <|endoftext|> after them."""
    vocab, merges = genuine_vocabulary()
    ids = json.loads(vocab.read_text(encoding="utf-8"))
    pairs = [tuple(line.split(" ")) for line in merges.read_text(encoding="utf-8").split("\n")[1:] if line][:n_merges]
    if n_merges is not None:
        ids = {token: i for token, i in ids.items() if i < 256 + n_merges} | {END_OF_TEXT: 256 + n_merges}
    return ids, pairs


def two_files(ids, merges, **settings):
    """vocab.json, merges.txt and what else is given, config for tokenizer_config.json."""
    names = {"config": "tokenizer_config.json", "added": "added_tokens.json", "named": "special_tokens_map.json"}
    files = {"vocab.json": ids, "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)}
    return files | {names[key]: value for key, value in settings.items()}


def one_file(ids, merges, added=(), config=None, as_pairs=True, model=None, **parts):
    """tokenizer.json, and tokenizer_config.json unless config is None."""
    fields = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added), "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
    } | parts  # fmt: skip
    merges = [list(pair) if as_pairs else " ".join(pair) for pair in merges]
    model = {"type": "BPE", "dropout": None, "unk_token": None} if model is None else model
    files = {"tokenizer.json": fields | {"model": model | {"vocab": ids, "merges": merges}}}
    return files if config is None else files | {"tokenizer_config.json": config}


def token(content, number=None, **flags):
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True} | flags
    return ({} if number is None else {"id": number}) | {"content": content} | flags


def template(text, number, *after):
    pieces = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    tokens = {text: {"id": text, "ids": [number], "tokens": [text]}}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": tokens}


def letters():
    """The 256 single bytes, ids 0 to 255."""
    return dict(list(gpt2(0)[0].items())[:256])


def with_tokens(ids, *tokens):
    return ids | {text: len(ids) + i for i, text in enumerate(tokens)}


def moved(ids, *first):
    """The same tokens after others that have the first ids."""
    return {text: i for i, text in enumerate(first)} | {text: i + len(first) for text, i in ids.items()}


def appended():
    """A list of merges learned elsewhere, put after GPT-2's: a recipe for other languages."""
    ids, merges = gpt2()
    words = ["nuqneH", "Qapla'", "worldly", "Hellos", "tlhIngan", "saying"]
    more, ids = [], dict(ids)
    for word in words:
        for i in range(1, len(word)):
            more.append((word[:i], word[i]))
            ids.setdefault(word[: i + 1], len(ids))
    return ids, [*merges, *more]


SMALL = 700
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
MASK = {
    "content": "<mask>",
    "lstrip": True,
    "rstrip": False,
    "normalized": False,
    "single_word": False,
    "__type": "AddedToken",
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": MASK}
OLD_HEADER = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
              "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False},
              "model": {"dropout": None, "unk_token": "", "continuing_subword_prefix": "", "end_of_word_suffix": "",
                        "fuse_unk": False}}  # fmt: skip
SPACED = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}


CASES = {
    # The rows of what was read wrongly or refused before 0.2
    "added_tokens.json": lambda: two_files(*gpt2(), added={"<|BOS|>": 50257, "<|SEP|>": 50258}),
    "add_prefix_space": lambda: two_files(*gpt2(), config={"add_prefix_space": True}),
    "add_bos_token": lambda: two_files(*gpt2(), config={"add_bos_token": True, "bos_token": END_OF_TEXT}),
    "added_tokens in tokenizer.json": lambda: one_file(*gpt2(), [token(END_OF_TEXT, 50256), token("<|SEP|>", 50257)]),
    "only tokenizer.json, as transformers 5 saves it": lambda: one_file(
        *gpt2(), [token(END_OF_TEXT, 50256)], {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "backend": "tokenizers",
                                               "bos_token": END_OF_TEXT, "added_tokens_decoder": {"50256": token(END_OF_TEXT)}},
        post_processor={"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                        "pair": [], "special_tokens": {}}),  # fmt: skip
    "three merges": lambda: two_files(with_tokens(letters(), "bc", "ab", "abc"), [("b", "c"), ("a", "b"), ("ab", "c")]),
    "merges appended": lambda: two_files(*appended()),
    "RoBERTa's ids first": lambda: two_files(moved(gpt2()[0], *ROBERTA), gpt2()[1]),
    "digit merges removed": lambda: two_files(gpt2()[0], [p for p in gpt2()[1] if not any(c.isdigit() for c in "".join(p))]),
    "alphabetical ids": lambda: two_files({t: i for i, t in enumerate(sorted(gpt2(SMALL)[0]))}, gpt2(SMALL)[1]),
    "two merges for one token": lambda: two_files(
        with_tokens(letters(), "ab", "bc", "abc"), [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")]),  # fmt: skip
    # In the manner of real files
    "DialoGPT": lambda: two_files(*gpt2(SMALL), config={"model_max_length": 1024}),
    "GPT-2 with a pad token": lambda: two_files(
        *gpt2(SMALL), config={"tokenizer_class": "GPT2Tokenizer", "pad_token": "[PAD]", "errors": "replace"},
        added={"[PAD]": 957}, named={"bos_token": END_OF_TEXT, "pad_token": "[PAD]"}),  # fmt: skip
    "a pad token without an id": lambda: two_files(*gpt2(SMALL), config={"pad_token": "[PAD]"}),
    "gpt2's tokenizer.json of 2020": lambda: one_file(
        *gpt2(SMALL), [token(END_OF_TEXT, 956, normalized=True)], {"model_max_length": 1024}, False, **OLD_HEADER),  # fmt: skip
    "all three of gpt2's files": lambda: two_files(*gpt2(SMALL)) | one_file(
        *gpt2(SMALL), [token(END_OF_TEXT, 956, normalized=True)], {"model_max_length": 1024}, False, **OLD_HEADER),  # fmt: skip
    "swe-gpt": lambda: one_file(
        {t: i for t, i in moved(gpt2(SMALL)[0], *ROBERTA).items() if t != END_OF_TEXT}, gpt2(SMALL)[1],
        [*(token(t, i) for i, t in enumerate(ROBERTA)), token(END_OF_TEXT, 961)], None, False,
        **{key: OLD_HEADER[key] for key in ("pre_tokenizer", "post_processor")}),  # fmt: skip
    "RoBERTa's names": lambda: two_files(moved(gpt2(SMALL)[0], *ROBERTA), gpt2(SMALL)[1], config=NAMED),
    "names in special_tokens_map.json": lambda: two_files(
        moved(gpt2(SMALL)[0], *ROBERTA), gpt2(SMALL)[1],
        named={key: value if isinstance(value, str) else {k: v for k, v in value.items() if k != "__type"}
               for key, value in NAMED.items()}),  # fmt: skip
    "trained by tokenizers, special tokens first": lambda: one_file(
        {t: i for t, i in moved(gpt2(SMALL)[0], "<s>", "</s>").items() if t != END_OF_TEXT}, gpt2(SMALL)[1],
        [token("<s>", 0), token("</s>", 1)], {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}),  # fmt: skip
    "trained by tokenizers, ByteLevel's default": lambda: one_file(
        *gpt2(SMALL), [token(END_OF_TEXT, 956)], {"tokenizer_class": "PreTrainedTokenizerFast"}, **SPACED),  # fmt: skip
    "add_prefix_space in both files": lambda: one_file(
        *gpt2(SMALL), [token(END_OF_TEXT, 956)], {"add_prefix_space": True}, **SPACED),  # fmt: skip
    "OPT's BOS": lambda: one_file(
        moved(gpt2(SMALL)[0], "<s>", "<pad>", "</s>"), gpt2(SMALL)[1], [token("</s>", 2), token("<pad>", 1)],
        {"tokenizer_class": "GPT2Tokenizer", "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"},
        post_processor=template("</s>", 2)),  # fmt: skip
    "a BOS after ByteLevel": lambda: one_file(
        *gpt2(SMALL), [token(END_OF_TEXT, 956)], {},
        post_processor={"type": "Sequence", "processors": [OLD_HEADER["post_processor"], template(END_OF_TEXT, 956)]}),  # fmt: skip
    "BOS and prefix space": lambda: two_files(*gpt2(SMALL), config={"add_prefix_space": True, "add_bos_token": True}),
    "additional_special_tokens": lambda: two_files(*gpt2(SMALL), config={"additional_special_tokens": ["<a>", "<b>", "<a><b>"]}),
    "added_tokens_decoder": lambda: two_files(*gpt2(SMALL), config={"added_tokens_decoder": {
        "956": token(END_OF_TEXT), "957": token("<a>", normalized=True, special=False),
        "958": token("<b>", rstrip=True), "959": token("<z>", lstrip=True, rstrip=True)}}),  # fmt: skip
    "normalized tokens come second": lambda: two_files(*gpt2(SMALL), config={"added_tokens_decoder": {
        "956": token(END_OF_TEXT), "957": token("x [end", normalized=True, special=False), "958": token("[end]")}}),  # fmt: skip
    "a token with spaces": lambda: two_files(*gpt2(SMALL), added={"say it": 957, " [end]": 958, "\t\t": 959, "\u5b57": 960}),
    "an image token": lambda: two_files(*gpt2(SMALL), config={"image_token": "<image>", "extra_special_tokens": ["<a>"]}),
    "no <|endoftext|>": lambda: two_files(
        {t: i for t, i in gpt2(SMALL)[0].items() if t != END_OF_TEXT}, gpt2(SMALL)[1],
        config={"bos_token": "!", "eos_token": "!", "unk_token": "!"}),  # fmt: skip
    "merges out of order": lambda: two_files(with_tokens(letters(), "aba", "ab"), [("ab", "a"), ("a", "b")]),
    "a merge twice": lambda: two_files(with_tokens(letters(), "ab", "bc"), [("a", "b"), ("b", "c"), ("a", "b")]),
}  # fmt: skip

A = {"Sequence": {"id": "A", "type_id": 0}}
small_file = functools.partial(lambda **parts: one_file(*gpt2(SMALL), [token(END_OF_TEXT, 956)], {}, **parts))
configured = functools.partial(lambda **config: two_files(*gpt2(SMALL), config=config))
REFUSED = {  # (files, what the sentence says); the file and the key are part of it
    "a normalizer": (lambda: small_file(normalizer={"type": "NFC"}), "tokenizer.json: normalizer is 'NFC'"),
    "another pre-tokenizer": (
        lambda: small_file(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, SPACED["pre_tokenizer"]]}),
        "tokenizer.json: pre_tokenizer is ['Digits', 'ByteLevel']"),
    "no pre-tokenizer": (lambda: small_file(pre_tokenizer=None), "tokenizer.json: pre_tokenizer is []"),
    "another pattern": (
        lambda: small_file(pre_tokenizer=SPACED["pre_tokenizer"] | {"use_regex": False}), "pre_tokenizer.use_regex is False"),
    "another post-processor": (
        lambda: small_file(post_processor={"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}),
        "tokenizer.json: post_processor is ['RobertaProcessing']"),
    "a token after the text": (
        lambda: small_file(post_processor=template(END_OF_TEXT, 956, {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}})),
        "tokenizer.json: post_processor.single is"),
    "another decoder": (lambda: small_file(decoder={"type": "WordPiece"}), "tokenizer.json: decoder is 'WordPiece'"),
    "another model": (lambda: small_file(model={"type": "Unigram"}), "tokenizer.json: model.type is 'Unigram'"),
    "dropout": (lambda: small_file(model={"dropout": 0.1}), "tokenizer.json: model.dropout is 0.1"),
    "ignore_merges": (lambda: small_file(model={"ignore_merges": True}), "tokenizer.json: model.ignore_merges is True"),
    "a key of tomorrow": (lambda: small_file(post_tokenizer={}), "tokenizer.json: post_tokenizer is {}"),
    "a prefix space that one class reads": (lambda: small_file(**SPACED), "tokenizer.json: pre_tokenizer.add_prefix_space is True"),
    "a BOS that one class adds": (
        lambda: small_file() | {"tokenizer_config.json": {"add_bos_token": True}}, "tokenizer.json: post_processor is None"),
    "other merges beside": (
        lambda: small_file() | {"merges.txt": two_files(*gpt2(SMALL - 1))["merges.txt"]}, "hold different merges"),
    "other ids beside": (lambda: small_file() | {"vocab.json": gpt2(SMALL - 1)[0]}, "hold different tokens"),
    "an EOS": (lambda: configured(add_eos_token=True), "tokenizer_config.json: add_eos_token is True"),
    "special tokens as text": (lambda: configured(split_special_tokens=True), "tokenizer_config.json: split_special_tokens is True"),
    "another class": (lambda: configured(tokenizer_class="BertTokenizer"), "tokenizer_config.json: tokenizer_class is 'BertTokenizer'"),
    "code": (lambda: configured(auto_map={"AutoTokenizer": ["x.Y", None]}), "tokenizer_config.json: auto_map is"),
    "a word by itself": (
        lambda: configured(added_tokens_decoder={"957": token("<a>", single_word=True)}), "tokenizer_config.json: single_word is True"),
    "an id with a gap": (lambda: two_files(*gpt2(SMALL), added={"<a>": 1000}), "added_tokens.json: the id of '<a>' is 1000"),
    "another id than the vocabulary's": (
        lambda: two_files(*gpt2(SMALL), added={END_OF_TEXT: 957}), "added_tokens.json: the id of '<|endoftext|>' is 957"),
    "a token that is no text": (lambda: configured(bos_token=5), "tokenizer_config.json: bos_token is 5"),
    "a setting that is no setting": (lambda: configured(add_prefix_space="yes"), "tokenizer_config.json: add_prefix_space is 'yes'"),
}  # fmt: skip


def write_files(folder, files):
    """Write them, and the config.json by which Hugging Face knows a GPT-2."""
    for name, content in (files | {"config.json": {"model_type": "gpt2"}}).items():
        Path(folder, name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Path(folder)
