"""Score the bundled model on combinations it has never seen: python -m minigpt2.bundled.evaluate

Every line of the table is one task: how often the most probable next token is the right one, and what about the texts
was held out of training (corpus.py says how). Below it, the example's texts and their logit differences.
"""

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import model as m
from ..gpt2 import GPT2
from ..terminal import guarded
from . import corpus, words

HERE = Path(__file__).parent
MOST = 100_000  # texts a task


@dataclass(frozen=True)
class Score:
    task: str
    n: int  # predictions
    right: int  # of them, those whose answer is the most probable token
    held_out: str

    @property
    def share(self):
        return self.right / self.n


def example_texts():
    """The example's sentence, with every name that is held out."""
    for first in words.FIRST_NAMES:
        for last in words.SURNAMES:
            if corpus.held_out_name(first, last):
                yield corpus.EXAMPLE.format(first=first, last=last)


def capital_texts():
    """Every capital in the wordings in which it is never stated."""
    for country in corpus.CAPITALS:
        for wording in range(len(corpus.CAPITAL_WORDINGS)):
            if corpus.held_out_fact(country, wording):
                yield corpus.state(country, wording)


def prompts(documents, rng, mark=None):
    """One (text, next word) for each document: what stands before one of its marks, and the word behind it."""
    for document in documents:
        parts = document.split(corpus.MARK)
        at = rng.randrange(1, len(parts)) if mark is None else mark
        yield "".join(parts[:at]), parts[at]


def tasks(n, seed=1):
    """The tasks that are texts: name -> (list of (text, next word), what is held out)."""
    rng = random.Random(f"held out {seed}")
    name, pair = "the first name with the surname", "the two names in one such text"
    names = sorted(example_texts(), key=lambda text: rng.random())[:n]
    people = [[corpus.recall(rng, True, count) for _ in range(n)] for count in (1, 2)]
    gifts = [[corpus.indirect_object(rng, True, first) for _ in range(n)] for first in (True, False)]
    return {
        "example sentence": (list(prompts(names, rng)), name),
        "name recall, one person": (list(prompts(people[0], rng)), name),
        "name recall, two people": (list(prompts(people[1], rng)), name),
        "indirect object, ABBA": (list(prompts(gifts[0], rng, mark=1)), pair),
        "indirect object, BABA": (list(prompts(gifts[1], rng, mark=1)), pair),
        "capitals": (list(prompts(capital_texts(), rng)), "the capital in this wording"),
    }


def score_prompts(model, texts):
    """How many of (text, next word) the model continues with the word's first token."""
    by_length = defaultdict(list)
    for text, word in texts:
        tokens = model.encode(text)
        by_length[len(model.check_tokens(tokens))].append((tokens, model.encode(word)[0]))
    right = 0
    for group in by_length.values():
        logits = m.forward(np.array([tokens for tokens, _ in group]), model.weights, model.config)[:, -1]
        right += int((logits.argmax(-1) == [answer for _, answer in group]).sum())
    return right


def score_induction(model, n, seed=1):
    """Random sequences twice: (predictions, right ones) for every token of the second copy but its first."""
    rng = random.Random(f"held out {seed}")
    done = right = 0
    while done < n:
        length = rng.randint(5, model.config.n_ctx // 2)
        sequence = corpus.induction(rng, model.config.n_vocab - 1, length, held_out=True)
        logits = m.forward(np.array(sequence * 2), model.weights, model.config)
        right += int((logits[length:-1].argmax(-1) == sequence[1:]).sum())
        done += length - 1
    return done, right


def evaluate(model, n=500):
    """All scores; about n predictions a task."""
    scores = [Score(task, len(t), score_prompts(model, t), held_out) for task, (t, held_out) in tasks(n).items()]
    done, right = score_induction(model, 4 * n)
    return [*scores, Score("repeated random tokens", done, right, "one or more of the token pairs")]


EXAMPLES = [
    "Michelle Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Michelle",
    "Jessica Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Jessica",
    "When Mary and John went to the store, John gave a drink to",
    "The capital of France is",
]
ANSWERS = (" Jones", " Smith")


def describe(model, text):
    """The three most probable next tokens of a text, and for the example's the metric of its heatmap."""
    logits = model.run(model.encode(text)).logits[-1]
    probabilities = m.softmax(logits)
    best = ", ".join(f"{model.decode([i])!r} {probabilities[i]:.1%}" for i in (-logits).argsort()[:3])
    jones, smith = (logits[model.encode(answer)[0]] for answer in ANSWERS)
    return f"{text}\n    {best}" + (f"; Smith - Jones {smith - jones:+.2f}" if "top-notch" in text else "")


def table(scores):
    lines = [f"{'task':<26}{'n':>6}  {'top-1':>7}  never seen in training"]
    return "\n".join(lines + [f"{s.task:<26}{s.n:>6}  {s.share:>7.1%}  {s.held_out}" for s in scores])


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m minigpt2.bundled.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=HERE, help="folder of the model (the bundled one)")
    parser.add_argument("--n", type=int, default=500, help="texts a task (%(default)s)")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.n <= MOST:
        parser.error(f"--n must be from 1 to {MOST}, got {chosen.n}")
    model = GPT2.from_pretrained(chosen.model)
    longest = max(len(model.encode(text)) for texts, _ in tasks(chosen.n).values() for text, _ in texts)
    if model.config.n_ctx < longest or model.config.n_vocab < 300:
        raise ValueError(f"the tasks need an n_ctx of {longest} and an n_vocab of 300 or more, and this is {model!r}")
    print(table(evaluate(model, chosen.n)), end="\n\n")
    print("\n".join(describe(model, text) for text in EXAMPLES))


if __name__ == "__main__":
    sys.exit(guarded(main))
