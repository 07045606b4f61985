"""The published numbers about circuits: the stand-in's hold, and each fault in the code that makes them is seen."""

import sys

import numpy as np
import pytest
from golden.stand_in_checkpoint import HERE, write_stand_in

from minigpt2 import GPT2
from minigpt2 import model as m
from minigpt2.facts import load_facts
from minigpt2.facts.checks import Subject
from minigpt2.facts.text_sets import greater_than_texts, head_circuit_texts, text_set
from patching.verify import circuits as verify

FACTS = load_facts(HERE / "stand_in_facts.json")["circuits"]
MODEL, BY_EDGES, BY_HEADS = FACTS


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_in")
    write_stand_in(folder, None)
    return Subject(GPT2.from_pretrained(folder), folder)


def verdict(subject, entry):
    (check,) = verify.check_circuits(subject, entry, None)
    return check.verdict


@pytest.mark.parametrize("entry", FACTS, ids=lambda entry: entry["fact"])
def test_the_stand_ins_numbers_hold(stand_in, entry):
    assert verdict(stand_in, entry) == "holds", "python tests/golden/make_stand_in.py records the facts anew"


def unpruned_top(scores, n):
    return verify.Circuit(edges=frozenset((w, r) for w, r, _ in scores.top(n + 1)[1:]))


FAULTS = {  # what is broken, where, and the fact that must be red
    "the median for the mean": ("faithfulness", "of_mean", lambda model, texts: median_of(model, texts), BY_HEADS),
    "zero for the mean": ("faithfulness", "of_mean", lambda model, texts: verify_zero(model, texts), BY_HEADS),
    "the strongest edge left out": ("find", "top_n", unpruned_top, BY_EDGES),
    "the other end of the steps": ("attribution", "fractions", lambda steps, ends: [0.0], BY_EDGES),
    "nothing ablated": ("faithfulness", "run_edges", lambda model, texts, ablated, mask: whole_model(model, texts), BY_EDGES),
}  # fmt: skip


def median_of(model, texts):
    from patching.circuits.ablated import Ablated, of_run

    return Ablated(
        *(np.median(np.stack(arrays), axis=0) for arrays in zip(*(of_run(model.run(text)) for text in texts)))
    )


def verify_zero(model, texts):
    from patching.circuits.ablated import of_zero

    return of_zero(model, len(texts[0]))


def whole_model(model, texts):
    return np.stack([model.run(text).resid_post[-1, -1] for text in texts])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_code_is_seen(stand_in, fault, monkeypatch):
    module, name, wrong, entry = FAULTS[fault]
    monkeypatch.setattr(sys.modules[f"patching.circuits.{module}"], name, wrong)
    assert verdict(stand_in, entry) == "FAILS"


def test_a_year_counted_among_those_above_is_seen(stand_in, monkeypatch):
    right = verify.years_above
    monkeypatch.setattr(verify, "years_above", lambda year, two_digits: right(year - 1, two_digits))
    assert verdict(stand_in, MODEL) == "FAILS"


def test_the_slope_is_the_derivative():
    rng = np.random.default_rng(0)
    logits, metric = rng.standard_normal(130), verify.years_above(41, list(range(7, 107)))
    slope, eps = metric.slope(logits), 1e-6
    for i in range(0, 130, 9):
        step = eps * (np.arange(130) == i)
        assert (metric(logits + step) - metric(logits - step)) / (2 * eps) == pytest.approx(slope[i], abs=1e-9)
    p = m.softmax(logits)[7:107]
    assert metric(logits) == pytest.approx(p[42:].sum() - p[:42].sum())


def test_the_sets_are_as_many_as_their_sources_say():
    texts = greater_than_texts(text_set("greater_than.json"))
    assert len(texts) == 1000 and {len(text) for clean, corrupted, _ in texts for text in (clean, corrupted)} == {13}
    assert all(sum(a != b for a, b in zip(clean, corrupted)) == (year != 1) for clean, corrupted, year in texts)
    found = text_set("ioi_heads.json")
    for name in found["templates"]:
        for bos in (False, True):
            texts, heads = head_circuit_texts(found, name, bos)
            assert len(texts) == 50 and len(heads) == 26
            assert {len(text) for *both, _ in texts for text in both} == {heads[9, 9][0] + 1}


def test_the_real_models_facts_have_their_sets():
    facts = load_facts()["circuits"]
    assert len(facts) == 12
    for entry in facts:
        found = text_set(entry["text_set"])
        assert entry["measure"] == "greater than" or entry["template"] in found["templates"]
