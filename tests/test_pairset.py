"""Sets of pairs: what files may hold and what is said of their faults, templates, roles, and the two built-in sets."""

import json

import pytest
from models import ODD, random_weights
from vocabulary import find_genuine_vocabulary

from minigpt2 import GPT2, Config
from minigpt2.tokenizer import Tokenizer
from patching import PairSet, PromptPair
from patching.pairs import builtin

BUNDLED = GPT2.from_pretrained("bundled")
HEADER = "clean,corrupted,clean_answer,corrupted_answer,subject\n"
LINE = (
    '"When Mary and John went home, John gave it to","When Mary and John went home, Mary gave it to", Mary, John,Mary\n'
)


def genuine_model():
    """Seeded weights with the vocabulary of GPT-2."""
    paths, reason = find_genuine_vocabulary()
    if not paths:
        pytest.skip(reason)
    config = Config(n_layer=1, n_head=1, n_embd=2, n_ctx=32, n_vocab=50257, d_mlp=8)
    return GPT2(config, random_weights(config), Tokenizer(*paths))


def written(tmp_path, text, name="pairs.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("change", [
    lambda text: text,
    lambda text: text.replace("\n", "\r\n"),
    lambda text: "\ufeff" + text,
    lambda text: text.replace("\n", "\n\n\n"),
    lambda text: text.rstrip("\n"),
], ids=["plain", "CRLF", "BOM", "empty lines", "no last newline"])  # fmt: skip
def test_one_file_however_it_is_stored(tmp_path, change):
    pairs = PairSet.read(written(tmp_path, change(HEADER + LINE * 2)))
    assert len(pairs) == 2 and pairs[0].answers == (" Mary", " John")
    assert pairs[0].clean == "When Mary and John went home, John gave it to"
    assert pairs.position(BUNDLED, 1, "subject") == BUNDLED.labels(BUNDLED.encode(pairs[1].clean)).index("␣Mary")


def test_json_lines_say_the_same(tmp_path):
    row = dict(clean="a b", corrupted="c b", clean_answer=[" x", " y"], corrupted_answer=" z", bos=True, verb=1)
    pairs = PairSet.read(written(tmp_path, json.dumps(row) + "\n\n" + json.dumps(row), "pairs.jsonl"))
    assert (
        len(pairs) == 2 and pairs[0].answers == ((" x", " y"), " z") and pairs[0].bos and pairs.roles["verb"] == (1, 1)
    )
    assert pairs.called == ("line 1", "line 3")


def test_all_faults_of_a_file_are_told_at_once_by_line(tmp_path):
    text = HEADER + LINE + "a,b, c\n" + "x y,z y,, d,x\n" + LINE + "x x y,z x y, c, d,x\nx y,z y, c, d,q\n"
    with pytest.raises(ValueError) as caught:
        PairSet.read(written(tmp_path, text))
    said = str(caught.value).splitlines()
    assert "4 lines that are not pairs" in said[0] and "skip=True" in said[0]
    assert [line.split(":")[0].strip() for line in said[1:]] == ["line 3", "line 4", "line 6", "line 7"]
    assert "3 cells, and the header 5" in said[1] and "clean_answer is missing" in said[2]
    assert "2 times" in said[3] and "not in the clean text" in said[4]
    pairs = PairSet.read(written(tmp_path, text), skip=True)
    assert pairs.called == ("line 2", "line 5") and len(pairs.left_out) == 4


@pytest.mark.parametrize("data, message", [
    (b"clean,corrupted,clean_answer\na,b,c\n", "header has no corrupted_answer"),
    ((HEADER.strip() + ",subject\n" + LINE).encode(), "'subject' twice"),
    ((HEADER + LINE + '"never closed').encode(), "not CSV from line 3 on"),
    (b"\x89PNG\0\0", "not a text file: line 1"),
    (HEADER.encode() + b"\xff\xfe,,,\n", "not UTF-8 text: see line 2"),
    (b"", "has no pairs"),
    (HEADER.encode(), "has no pairs"),
])  # fmt: skip
def test_a_file_that_is_not_one_is_refused_in_one_sentence(tmp_path, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        PairSet.read(written(tmp_path, data))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("line, message", [("{", "line 1: it is not JSON"), ("[1]", "line 1: it is not an object"),
                                           ('{"clean": "a"}', "corrupted, clean_answer, corrupted_answer are missing")])  # fmt: skip
def test_json_that_is_not_a_pair(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        PairSet.read(written(tmp_path, line, "pairs.jsonl"))


def test_a_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="cannot read"):
        PairSet.read(tmp_path / "none.csv")


def test_a_hundred_thousand_lines_are_read_and_their_faults_counted(tmp_path):
    good = HEADER + LINE * 100_000
    assert len(PairSet.read(written(tmp_path, good))) == 100_000
    with pytest.raises(ValueError, match="99999 lines") as caught:
        PairSet.read(written(tmp_path, HEADER + LINE + "a,b\n" * 99_999))
    assert len(str(caught.value).splitlines()) == 22


def test_pairs_that_do_not_align_are_listed_or_left_out(tmp_path):
    text = HEADER + LINE + "Mary ran,Mary ran far away, Mary, John,Mary\n" + LINE
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match="1 of 3 pairs cannot be used.*\n  line 3: clean has"):
        PairSet.read(path, model=BUNDLED)
    with pytest.raises(ValueError, match="line 3"):
        PairSet.read(path).checked(BUNDLED)
    kept = PairSet.read(path, model=BUNDLED, skip=True)
    assert kept.called == ("line 2", "line 4") and "line 3" in kept.left_out[0]


# Roles


def test_a_role_is_the_token_that_ends_the_piece():
    text = "When Mary and John went home, John gave it to"
    pair = PromptPair(text, text.replace("home, John", "home, Mary"), (" Mary", " John"), bos=True)
    pairs = PairSet([pair], {"first": ["John#1"], "second": ["John#2"], "letter": ["Mar"], "number": [-2]})
    labels = BUNDLED.labels(pair.tokens(BUNDLED).clean)
    johns = [i for i, label in enumerate(labels) if label == "␣John"]
    assert [pairs.position(BUNDLED, 0, role) for role in ("first", "second")] == johns
    assert labels[pairs.position(BUNDLED, 0, "letter")] == "␣Mary"
    assert pairs.position(BUNDLED, 0, "number") == len(labels) - 2
    assert pairs.position(BUNDLED, 0, "end") == len(labels) - 1
    with pytest.raises(ValueError, match="unknown role 'verb'; this set has end, first"):
        pairs.position(BUNDLED, 0, "verb")


@pytest.mark.parametrize("spot, message", [("John", "2 times"), ("John#3", "not in"), ("", "needs a position"),
                                           (99, "at position 99"), (True, "needs a position")])  # fmt: skip
def test_a_role_that_is_nowhere(spot, message):
    pair = PromptPair("When Mary and John went home, John gave it to", "a", (" Mary", " John"))
    pair = PromptPair(pair.clean, pair.clean.replace("home, John", "home, Mary"), pair.answers)
    with pytest.raises(ValueError, match=message):
        PairSet([pair], {"subject": [spot]}).position(BUNDLED, 0, "subject")


def test_a_set_says_what_is_wrong_with_it():
    pair = PromptPair("a b", "c b", (" x", " y"))
    for given, message in (([], "at least one"), ([1], "at least one"), (3, "at least one")):
        with pytest.raises(ValueError, match=message):
            PairSet(given)
    with pytest.raises(ValueError, match="has 1 places, and there are 2 pairs"):
        PairSet([pair, pair], {"subject": [1]})


# Templates and the built-in sets

SLOTS = dict(A=["John", "Mary", "Anna"], B=["John", "Mary", "Anna"], place=["school", "garden"])
CLEAN, CORRUPTED = "{A} and {B} went to the {place}, {B} gave it to", "{A} and {B} went to the {place}, {A} gave it to"


def test_a_template_makes_different_pairs_the_same_ones_for_a_seed():
    make = lambda **choices: PairSet.from_template(  # noqa: E731
        CLEAN, CORRUPTED, (" {A}", " {B}"), SLOTS, model=BUNDLED, n=12, **choices
    )
    pairs = make(seed=3)
    assert len({pair.clean for pair in pairs}) == 12 and list(pairs) == list(make(seed=3)) != list(make(seed=4))
    for pair in pairs:
        first, second = pair.clean.split(" and ")[0], pair.clean.split()[2]
        assert first != second and pair.answers == (f" {first}", f" {second}")
        assert pair.corrupted == pair.clean.replace(f", {second}", f", {first}")
    assert list(pairs.roles) == ["end", "A", "B 1", "place", "B 2"]
    labels = [BUNDLED.labels(pair.tokens(BUNDLED).clean) for pair in pairs]
    assert all(labels[i][pairs.position(BUNDLED, i, "B 2")] == f"␣{pairs[i].clean.split()[2]}" for i in range(12))
    with pytest.raises(ValueError, match="the slots gave 12 different pairs that align, and 13 are asked for"):
        PairSet.from_template(CLEAN, CORRUPTED, (" {A}", " {B}"), SLOTS, model=BUNDLED, n=13)


def test_words_that_do_not_align_are_named_or_drawn_again():
    slots = SLOTS | {"A": ["John", "Bartholomew"], "B": ["Mary", "Anna"]}
    clean, corrupted = "{A} saw that {B} gave it to", "{B} saw that {B} gave it to"
    choices = dict(model=BUNDLED, n=2)
    with pytest.raises(ValueError, match="pairs do not align.*\n.*Bartholomew"):
        for seed in range(9):
            PairSet.from_template(clean, corrupted, (" Mary", " John"), slots, seed=seed, **choices)
    for seed in range(9):
        pairs = PairSet.from_template(clean, corrupted, (" Mary", " John"), slots, seed=seed, skip=True, **choices)
        assert len(pairs) == 2 and not any("Barth" in pair.clean for pair in pairs)


@pytest.mark.parametrize(
    "clean, message", [("{A} {C}", "no words for the slot 'C'"), ("{A", "not a template"), ("{} b", "without a name")]
)
def test_a_template_that_is_not_one(clean, message):
    with pytest.raises(ValueError, match=message):
        PairSet.from_template(clean, CORRUPTED, (" {A}", " {B}"), SLOTS, model=BUNDLED, n=1)


@pytest.mark.parametrize("corruption", ["swap", "other names"])
def test_indirect_object_is_balanced_aligned_and_without_duplicates(corruption):
    pairs = builtin.indirect_object(BUNDLED, 20, corruption=corruption, seed=2)
    assert len({pair.clean for pair in pairs}) == 20
    assert list(pairs) == list(builtin.indirect_object(BUNDLED, 20, corruption=corruption, seed=2))
    assert pairs.checked(BUNDLED, pairs.roles) is pairs
    subject_first, drawn = 0, set()
    for i, pair in enumerate(pairs):
        names = pair.clean.split()[1], pair.clean.split()[3]
        giver = pair.clean.split(", ")[1].split()[0]
        other = names[names[0] == giver]
        assert pair.answers == (f" {other}", f" {giver}")
        gave = pair.corrupted.split(", ")[1].split()[0]
        if corruption == "swap":
            assert gave == other and pair.corrupted.split(", ")[0] == pair.clean.split(", ")[0]
        else:
            three = {pair.corrupted.split()[1], pair.corrupted.split()[3], gave}
            assert len(three) == 3 and not three & {*names}
        ids = pair.tokens(BUNDLED).clean
        assert BUNDLED.decode([ids[pairs.position(BUNDLED, i, "S 2")]]) == f" {giver}"
        assert BUNDLED.decode([ids[pairs.position(BUNDLED, i, "IO")]]) == f" {other}"
        subject_first += names[0] == giver
        drawn.add((frozenset(names), pair.clean.split()[7]))
    assert subject_first == 10 and len(drawn) > 15  # the two templates do not share their words


def test_greater_than_has_all_years_as_answers():
    model = genuine_model()
    pairs = builtin.greater_than(model, 40)
    assert len({pair.clean for pair in pairs}) == 40 and pairs.checked(model, pairs.roles) is pairs
    for i, pair in enumerate(pairs):
        year = int(pair.clean.split()[6][2:])
        after, before = pair.answers
        assert [*map(int, before), *map(int, after)] == list(range(100)) and int(after[0]) == year + 1
        ids = pair.tokens(model)
        at = pairs.position(model, i, "year")
        assert model.decode([ids.clean[at]]) == f"{year:02d}" and model.decode([ids.corrupted[at]]) == "01"
        assert ids.clean[at - 1] == ids.clean[-1] and ids.differing == (at,)


def test_greater_than_needs_years_that_are_tokens():
    with pytest.raises(ValueError, match="cuts 0 of"):
        builtin.greater_than(BUNDLED, 2)


def test_a_set_without_a_vocabulary():
    pairs = PairSet([PromptPair.from_tokens([1, 2, 3], [1, 4, 3], (5, 6))], {"changed": [1]})
    model = GPT2(ODD, random_weights(ODD))
    assert pairs.position(model, 0, "changed") == 1 and pairs.position(model, 0, "end") == 2
