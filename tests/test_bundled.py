"""The bundled model: is it what its card says, was it trained as it says, and can anyone train it again?"""

import dataclasses
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minigpt2 import GPT2
from minigpt2 import bundled as package
from minigpt2.bpe import LETTERS, split
from minigpt2.bundled import batches, bpe, corpus, evaluate, words
from minigpt2.bundled.optimiser import AdamW, Parameters
from minigpt2.bundled.train import Settings, Training, learn_vocabulary, train
from minigpt2.checkpoint.weights import flatten, save_folder
from minigpt2.tokenizer import Tokenizer

FOLDER = Path(package.__file__).parent
FILES = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
TINY = dict(n_layer=1, n_head=2, n_embd=8, n_ctx=32, n_vocab=400, batch=64, warm_up=2)


@pytest.fixture(scope="module")
def bundled():
    return GPT2.from_pretrained(FOLDER)


def plain(document):
    return document.replace(corpus.MARK, "")


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_model_takes_at_most_six_megabytes():
    sizes = [(FOLDER / name).stat().st_size for name in FILES]
    assert sum(sizes) <= 6_000_000
    assert sum(path.stat().st_size for path in FOLDER.glob("*.*")) <= 6_000_000


def test_the_card_counts_what_there_is(bundled):
    card = (FOLDER / "README.md").read_text()
    parameters = sum(array.size for array in flatten(bundled.weights).values())
    megabytes = sum((FOLDER / name).stat().st_size for name in FILES) / 1e6
    assert f"| parameters | {parameters:,} |" in card
    assert f"| {bundled.config.n_vocab:,} byte-level BPE tokens" in card and f"{megabytes:.1f} MB |" in card


def test_every_name_is_one_token_and_clean_and_corrupted_texts_are_aligned(bundled):
    for name in words.FIRST_NAMES:
        assert len(bundled.encode(name)) == len(bundled.encode(" " + name)) == 1, name
    for name in words.SURNAMES + [*words.CAPITALS, *words.CAPITALS.values()]:
        assert len(bundled.encode(" " + name)) == 1, name
    lengths = [len(bundled.encode(text)) for text in evaluate.EXAMPLES[:4]]
    assert lengths == [11] * 4  # as with GPT-2's own vocabulary


def test_the_vocabulary_is_the_one_that_the_corpus_teaches(tmp_path, bundled):
    learn_vocabulary(tmp_path, bundled.config.n_vocab)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), f"{name}: train the model again"


# --- what it can do ---------------------------------------------------------------------------------------------------

THRESHOLDS = {
    "example sentence": 0.95, "name recall, one person": 0.95, "name recall, two people": 0.95,
    "indirect object, ABBA": 0.95, "indirect object, BABA": 0.95, "capitals": 0.9, "repeated random tokens": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def scores(bundled):
    return {score.task: score for score in evaluate.evaluate(bundled)}


@pytest.mark.slow
def test_scores_on_held_out_combinations(scores):
    assert scores.keys() == THRESHOLDS.keys()
    for task, threshold in THRESHOLDS.items():
        assert scores[task].share >= threshold, f"{task}: {scores[task].right} of {scores[task].n}"


def test_the_cards_scores_are_the_measured_ones(scores):
    card = (FOLDER / "README.md").read_text()
    for task, score in scores.items():
        row = re.search(rf"^\| {re.escape(task)} +\| +(\d+) \| +([\d.]+) % \|", card, re.M)
        assert row, f"the card has no row for {task}"
        assert int(row[1]) == score.n
        assert float(row[2]) == pytest.approx(100 * score.share, abs=1), task  # another BLAS may round a tie otherwise


def test_the_examples_patches_tell_the_story(bundled):
    """A patch of the surname's position decides in the first layer, a patch of the last position in the last one."""
    clean, corrupted = (bundled.run(bundled.encode(text)) for text in evaluate.EXAMPLES[:2])
    jones, smith = (bundled.encode(answer)[0] for answer in evaluate.ANSWERS)

    def metric(logits):
        return logits[-1, smith] - logits[-1, jones]

    n_layer, n_seq = bundled.config.n_layer, len(clean.tokens)
    restored = np.zeros((n_layer, n_seq))  # 0: as corrupted, 1: as clean
    for layer in range(n_layer):
        for pos in range(n_seq):
            resid = corrupted.resid_post[layer].copy()
            resid[pos] = clean.resid_post[layer, pos]
            restored[layer, pos] = metric(bundled.resume(resid, layer + 1)) - metric(corrupted.logits)
    restored /= metric(clean.logits) - metric(corrupted.logits)
    assert metric(clean.logits) < 0 < metric(corrupted.logits)
    assert restored[0].argmax() == 1 and restored[0, 1] > 0.8
    assert restored[-1].argmax() == n_seq - 1 and restored[-1, -1] == pytest.approx(1)
    assert (np.diff(restored[:, -1]) > -0.1).all(), "the last position only gains from layer to layer"


def test_an_unknown_first_name_does_not_get_the_other_persons_surname(bundled):
    for text, name in ((evaluate.EXAMPLES[2], " Jones"), (evaluate.EXAMPLES[3], " Smith")):
        assert bundled.run(bundled.encode(text)).logits[-1].argmax() != bundled.encode(name)[0], text


# --- what it has not seen ---------------------------------------------------------------------------------------------


def training_documents(n=2000):
    rng = random.Random("look for leaks")
    return [document(rng) for _ in range(n) for document in batches.DOCUMENTS]


def test_no_training_text_holds_what_is_held_out():
    full_names = {
        f"{first} {last}" for first in words.FIRST_NAMES for last in words.SURNAMES if corpus.held_out_name(first, last)
    }
    assert {"Michelle Jones", "Michelle Smith", "Jessica Jones", "Jessica Smith"} <= full_names
    facts = {
        plain(corpus.state(country, wording))
        for country in corpus.CAPITALS
        for wording in range(len(corpus.CAPITAL_WORDINGS))
        if corpus.held_out_fact(country, wording)
    }
    seen_names = set()
    for document in map(plain, training_documents()):
        text = document.replace(".", " ").replace(",", " ").split()
        pairs = {f"{a} {b}" for a, b in zip(text, text[1:])}
        assert not pairs & full_names, document
        assert document not in facts
        seen_names |= {a for a in text if a in words.FIRST_NAMES or a in words.SURNAMES}
    assert seen_names == {*words.FIRST_NAMES, *words.SURNAMES}  # each name occurs, with others


def test_no_training_text_of_indirect_objects_holds_a_held_out_pair():
    rng = random.Random(0)
    pairs = Counter()
    for _ in range(4000):
        a, b, *_ = dict.fromkeys(
            word for word in plain(corpus.indirect_object(rng)).replace(".", " ").split() if word in words.FIRST_NAMES
        )
        assert not corpus.held_out_pair(a, b) and {a, b} != {"Mary", "John"}
        pairs[frozenset((a, b))] += 1
    assert len(pairs) > 1500  # of 2,556 pairs in all


def test_the_held_out_texts_consist_of_held_out_names():
    rng = random.Random(0)
    for _ in range(300):
        text = plain(corpus.recall(rng, held_out=True)).replace(".", " ").replace(",", " ").split()
        pairs = [(a, b) for a, b in zip(text, text[1:]) if a in words.FIRST_NAMES and b in words.SURNAMES]
        assert pairs and all(corpus.held_out_name(a, b) for a, b in pairs)
        assert corpus.held_out_name("Michelle", "Jones") and not corpus.held_out_name("Michelle", "Evans")


def test_random_sequences_avoid_the_held_out_pairs_and_their_tests_hold_one():
    rng = random.Random(0)
    for n in range(4, 60):
        for held_out in (False, True):
            sequence = corpus.induction(rng, 500, n, held_out)
            assert len(set(sequence)) == n
            assert any(corpus.held_out_bigram(a, b) for a, b in zip(sequence, sequence[1:])) == held_out


def test_random_rows_of_training_avoid_the_held_out_pairs_also_where_the_sequence_starts_again(bundled):
    rng, last = random.Random(0), bundled.config.n_vocab - 1
    for _ in range(200):
        row, _ = batches.random_row(rng, bundled.encode, last, 65)
        row = row[1:] if row[0] == last else row
        assert not any(corpus.held_out_bigram(a, b) for a, b in zip(row, row[1:]))


@pytest.mark.slow
def test_no_batch_holds_a_held_out_name_not_even_among_random_tokens(bundled):
    """The first 500 of the 10,000 batches that the model was trained on."""
    held_out = np.zeros([bundled.config.n_vocab] * 2, bool)
    for first, last in batches.held_out_names(bundled.encode):
        held_out[first, last] = True
    assert held_out.sum() > 1000  # about a tenth of 72 x 71 names, at the start of a text and behind a space
    for step in range(500):
        tokens, _ = batches.batch(0, step, bundled.encode, bundled.config.n_vocab, 1024)
        assert not held_out[tokens[:, :-1], tokens[:, 1:]].any(), step


# --- batches ----------------------------------------------------------------------------------------------------------


def test_marks_do_not_change_the_tokens_and_weigh_the_answers(bundled):
    for document in training_documents(50):
        tokens, weights = batches.encode_document(document, bundled.encode)
        assert tokens == bundled.encode(plain(document)), document
        assert weights.count(batches.ANSWER) == document.count(corpus.MARK)
    tokens, weights = batches.encode_document("Anna Reed was a cook. Anna| Reed smiled.", bundled.encode)
    assert bundled.decode([tokens[weights.index(batches.ANSWER)]]) == " Reed"


def test_a_batch_depends_on_seed_and_step_only(bundled):
    make = lambda seed, step: batches.batch(seed, step, bundled.encode, bundled.config.n_vocab, 256)  # noqa: E731
    for step in range(5):
        (tokens, weight), (again, _) = make(0, step), make(0, step)
        assert (tokens == again).all() and tokens.shape == (weight.shape[0], weight.shape[1] + 1)
        assert tokens.size - len(tokens) == 256 and weight.min() > 0
    assert not np.array_equal(make(0, 1)[0], make(1, 1)[0])


def test_the_grammar_still_writes_what_the_model_was_trained_on(bundled):
    seen = hashlib.sha256()
    for step in range(30):
        tokens, weight = batches.batch(0, step, bundled.encode, bundled.config.n_vocab, 1024)
        seen.update(tokens.astype("<i8").tobytes() + weight.astype("<f4").tobytes())
    assert seen.hexdigest()[:16] == "8b40a9697e859051", (
        "the corpus has changed: train the model again, score it, write this"
    )


# --- the vocabulary's learner -----------------------------------------------------------------------------------------


def learn_slowly(texts, n_merges):
    """Sennrich et al. 2016, algorithm 1: count all pairs anew for every merge."""
    letters = list(LETTERS.items())
    letters = {byte[0]: letter for letter, byte in letters}
    found = [tuple(letters[b] for b in word.encode()) for text in texts for word in split(text)]
    merges = []
    for _ in range(n_merges):
        counts = Counter(pair for word in found for pair in zip(word, word[1:]))
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        found = [bpe.merge(word, merges[-1]) for word in found]
    return merges


def test_bpe_learns_what_the_slow_reference_learns_whatever_the_order_of_the_texts():
    rng = random.Random(0)
    texts = [plain(document(rng)) for _ in range(10) for document in batches.DOCUMENTS]
    texts += ["aaaa aaaaa abababa 12 1212 'll I'll   end\n\n x", "aaaaaaa bababab"]
    assert bpe.learn(texts, 80) == learn_slowly(texts, 80) == bpe.learn(texts[::-1], 80)


def test_bpe_says_when_the_text_has_no_more_to_teach():
    with pytest.raises(ValueError, match="only 3 merges to learn, 9 were asked for"):
        bpe.learn(["abcd"], 9)


def test_the_written_vocabulary_cuts_text_into_words_as_the_learner_does(tmp_path):
    texts = ["The cat's hat isn't in\n\nthe  hat, I'll say; 12 hats!"] * 3
    bpe.write(tmp_path, bpe.learn(texts, 20))
    tokenizer = Tokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt")
    whole = tokenizer.encode(texts[0])
    assert tokenizer.decode(whole) == texts[0]
    assert whole == [token for word in split(texts[0]) for token in tokenizer.encode(word)]
    assert tokenizer.n_vocab == 256 + 20 + 1 and tokenizer.encode("<|endoftext|>") == [276]


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.reference
def test_adamw_is_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, n_decayed = rng.normal(size=50), 30
    ours = start.copy()
    theirs = [torch.tensor(part.copy(), requires_grad=True) for part in np.split(start, [n_decayed])]
    groups = [dict(params=[theirs[0]], weight_decay=0.1), dict(params=[theirs[1]], weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), eps=1e-8)
    adam = AdamW(ours, n_decayed, beta1=0.9, beta2=0.98, weight_decay=0.1)
    for step in range(20):
        gradient = rng.normal(size=50) * 10.0 ** rng.integers(-6, 3, 50)
        for group in optimiser.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for part, g in zip(theirs, np.split(gradient, [n_decayed])):
            part.grad = torch.tensor(g)
        optimiser.step()
        adam.step(gradient.copy(), 0.01 * (step + 1))
        expected = np.concatenate([part.detach().numpy() for part in theirs])
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13)  # float64 rounding over 20 steps


def test_matrices_decay_and_biases_and_layer_norms_do_not():
    parameters = Parameters(Settings(**TINY).config)
    parameters.flat[: parameters.n_decayed] = 1
    for name, array in parameters.named.items():
        assert array.min() == array.max() == (array.ndim == 2), name
        assert array.flags.c_contiguous and np.shares_memory(array, parameters.flat)


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path):
    whole = Training.start(tmp_path / "whole", Settings(**TINY, steps=8))
    assert train(whole, save_every=100)
    halves = Training.start(tmp_path / "halves", Settings(**TINY, steps=8))
    assert not train(halves, save_every=100, interrupted=lambda: halves.adam.steps == 3)
    halves = Training.resume(tmp_path / "halves")
    assert halves.adam.steps == 3 and train(halves)
    assert (whole.parameters.flat == halves.parameters.flat).all()
    assert (whole.adam.m == halves.adam.m).all() and (whole.adam.v == halves.adam.v).all()
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "halves/model.safetensors").read_bytes()
    other = Training.start(tmp_path / "other", Settings(**TINY, steps=8, seed=1))
    assert train(other) and not (whole.parameters.flat == other.parameters.flat).all()


def test_training_lowers_the_loss(tmp_path):
    run = Training.start(tmp_path, Settings(**TINY, steps=60, learning_rate=1e-2))
    losses = [run.step() for _ in range(60)]
    assert np.mean(losses[:5]) == pytest.approx(np.log(400), rel=0.15)  # at first it knows nothing
    assert np.mean(losses[-5:]) < 0.9 * np.log(400)


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_continues(tmp_path):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "minigpt2.bundled.train", "--out", str(tmp_path / "run")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    command += [*options, "--steps=100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as run:
        line = run.stderr.readline()
        assert "step 25/100000  loss" in line and line.strip().endswith("left")
        run.send_signal(signal.SIGINT)
        rest = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and "--resume continues" in rest
    saved = Training.resume(tmp_path / "run")
    assert saved.adam.steps >= 25
    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert again.returncode == 2 and "--resume continues it" in again.stderr
    model = subprocess.run([*command[:3], "--out", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert model.returncode == 2 and "holds a model, which would be overwritten" in model.stderr
    other = [*command[:5], "--resume", "--steps=12"]
    changed = subprocess.run(other, capture_output=True, text=True, env=environment, timeout=60)
    assert changed.returncode == 2 and "keeps the settings it has: leave out --steps" in changed.stderr
    command = [*command[:3], "--out", str(tmp_path / "no"), "--resume"]
    nothing = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert nothing.returncode == 2 and "holds no training run" in nothing.stderr


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(n_embd=9), "n_embd 9 must be even and divisible by n_head 2"),
        (dict(n_ctx=31), "n_ctx 31 is too short: batches have rows of 32 or more"),
        (dict(batch=31), "a batch of 31 predictions is less than one row of 32"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**TINY | wrong)


def test_a_diverging_run_says_what_to_do(tmp_path):
    run = Training.start(tmp_path, Settings(**TINY, learning_rate=1e30))
    with pytest.raises(FloatingPointError, match="try a lower --learning-rate"), np.errstate(all="ignore"):
        for _ in range(5):
            run.step()


def test_a_model_too_short_for_the_tasks_is_told_so(bundled, tmp_path):
    """Not that some text of theirs, which nobody gave, does not fit."""
    short = dataclasses.replace(bundled.config, n_ctx=32)
    save_folder(tmp_path, short, bundled.weights._replace(wpe=bundled.weights.wpe[:32]))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FOLDER / name, tmp_path)
    with pytest.raises(ValueError, match=r"the tasks need an n_ctx of \d+ and an n_vocab"):
        evaluate.main(["--model", str(tmp_path), "--n", "20"])
