"""Published numbers about ablated heads: the kinds "head_ablation" and "backup_heads" of `python -m patching.verify`."""

import numpy as np

from minigpt2 import Overwrite
from minigpt2.facts import compare
from minigpt2.lens import answer_direction, direct_logit_attribution

from ..ablations.ablate import loss
from ..sources import Runs, zero


def check_head_ablation(subject, entry, facts):
    """The loss with one head's values at zero at every position: its z is then zero as well."""
    model, layer, head, convention = subject.model, entry["layer"], entry["head"], entry.get("convention", "raw")
    run = model.run(entry["ids"])
    value = zero(convention).vectors(Runs(run, run), "v", layer, head)
    got = loss(model.run(entry["ids"], overwrites=[Overwrite(layer, "v", value, heads=[head])]))
    fact = f"loss, head {layer}.{head} with values of zero" + (", folded" if convention != "raw" else "")
    yield compare("head_ablation", fact, entry["value"], got, entry["source"], entry["tolerance"])


def check_backup_heads(subject, entry, facts):
    """A head's z at TransformerLens's zero at one position: the logit difference, and what each head then adds to it."""
    group = [fact for fact in facts["logit_differences"] if fact.get("group") == entry["group"]]
    layer, head = entry["layer"], entry["head"]
    found = [without_head(subject.model, fact, layer, head, entry["position"]) for fact in group]
    if not found:
        raise ValueError("there is nothing to take a mean of")
    at, source = f"head {layer}.{head} at zero, folded", entry["source"]
    value, heads = np.mean([value for value, _ in found]), np.mean([heads for _, heads in found], axis=0)
    yield compare("backup_heads", f"mean difference, {at}", entry["value"], value, source, entry["value_tolerance"])
    yield compare(
        "backup_heads", f"{heads.size} heads add, {at}", entry["heads"], heads, source, entry["tolerance"],
        where=lambda at: f"head {at[0]}.{at[1]}",
    )  # fmt: skip


def without_head(model, fact, layer, head, position):
    """(logit difference, what each head adds to it as TransformerLens counts: without its folded value bias)."""
    run = model.run(fact["ids"])
    value = zero("transformer_lens").vectors(Runs(run, run), "z", layer, head)
    ablated = model.run(fact["ids"], overwrites=[Overwrite(layer, "z", value, heads=[head], positions=[position])])
    plus, minus = fact["plus"][0], fact["minus"][0]
    a = direct_logit_attribution(ablated, plus, minus)
    return a.total, a.heads - folded_biases(model, a)


def folded_biases(model, attribution):
    """What each head's folded value bias adds along the direction of an Attribution, [n_layer, n_head]."""
    c, run = model.config, attribution.run
    heads = [
        [zero("transformer_lens").vectors(Runs(run, run), "result", i, j) for j in range(c.n_head)]
        for i in range(c.n_layer)
    ]
    return np.array(heads) @ answer_direction(run, attribution.plus, attribution.minus, attribution.position)
