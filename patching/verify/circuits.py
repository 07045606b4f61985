"""Published numbers about circuits: the kind "circuits" of `python -m patching.verify`.

Greater-than: the model's probability difference, and that of the circuits of the 200 strongest edges by EAP and EAP-IG (means over
1,000 pairs: the circuits take a while). Indirect objects: the percentage that the paper's 26 heads keep with all else
mean-ablated.
"""

import numpy as np

from minigpt2 import model as m
from minigpt2.facts import compare
from minigpt2.facts.text_sets import greater_than_texts, head_circuit_texts, text_set

from ..circuits.attribution import attribute_edges
from ..circuits.circuit import Circuit
from ..circuits.faithfulness import Measure
from ..circuits.find import find_circuit
from ..prompts import PromptPair


def check_circuits(subject, entry, facts):
    """One published number."""
    measure = {"greater than": greater_than, "heads": heads}[entry["measure"]]
    got = measure(subject.model, text_set(entry["text_set"]), entry)
    yield compare("circuits", entry["fact"], entry["value"], got, entry["source"], entry["tolerance"])


def greater_than(model, found, entry):
    """The mean of p(years above YY) - p(years up to YY), of the model or of a circuit of the strongest edges, pruned."""
    texts = greater_than_texts(found)[: entry.get("first")]
    pairs = [PromptPair.from_tokens(clean, corrupted, found["two_digits"][98:]) for clean, corrupted, _ in texts]
    metrics = [years_above(year, found["two_digits"]) for *_, year in texts]
    measure = Measure(model, pairs, "other run", metrics, "noising")
    if "circuit" not in entry:
        return measure.whole.mean()
    scores = attribute_edges(model, pairs, metric=metrics, **entry["circuit"]["scores"])
    return measure.of(find_circuit(model, pairs, entry["circuit"]["n_edges"], scores=scores)).mean()


def years_above(year, two_digits):
    """The probability difference of greater-than as a metric: two-digit years above `year` less the others."""
    signs = np.where(np.arange(len(two_digits)) > year, 1.0, -1.0)

    def probability_difference(logits):
        return float(m.softmax(logits)[two_digits] @ signs.astype(logits.dtype))

    def slope(logits):
        p, weight = m.softmax(logits), np.zeros_like(logits)
        weight[two_digits] = signs
        return p * (weight - p @ weight)

    probability_difference.slope = slope
    return probability_difference


def heads(model, found, entry):
    """100 x mean of the circuit's logit differences / mean of the model's, all heads outside mean-ablated by position."""
    texts, circuit = head_circuit_texts(found, entry["template"], entry["bos"])
    pairs = [PromptPair.from_tokens(clean, corrupt, answers) for clean, corrupt, answers in texts]
    measure = Measure(model, pairs, "mean", "logit_difference", "noising")
    return measure.faithfulness(Circuit.of_heads(model.config, circuit)).percent
