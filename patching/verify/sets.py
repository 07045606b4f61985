"""Published numbers over sets of pairs: the kinds "pair_maps", "head_scores" and "probability_differences" of
`python -m patching.verify`."""

import numpy as np

from minigpt2 import head_scores
from minigpt2.facts import compare, skipped
from minigpt2.model import softmax

from .. import PairSet, PromptPair, attribute, sweep

METHODS = {"patching": sweep, "attribution": attribute}


def check_pair_maps(subject, entry, facts):
    """The pairs' own logit differences, the mean maps over them on the scale from 0 (corrupted) to 1 (clean), and what parts
    add to the clean runs' answers."""
    model, source = subject.model, entry["source"]
    pairs = PairSet([
        PromptPair.from_tokens(pair["clean_ids"], pair["corrupted_ids"], [token for token, _ in pair["answers"]])
        for pair in entry["pairs"]
    ])  # fmt: skip
    n = f"{len(pairs)} pair{'s' * (len(pairs) > 1)}"
    for i, expected in enumerate(entry["maps"]):
        where = "all positions" if expected["positions"] == "all" else "each position"
        found = METHODS[expected["method"]](model, pairs, expected["site"], positions=expected["positions"])
        if i == 0:  # their sign is the other one: clean answer - corrupted answer
            for run, values in (("clean", found.clean_values), ("corrupted", found.corrupted_values)):
                yield compare("pair_maps", f"{run} runs of {n}", entry[run], -values, source, entry["run_tolerance"],
                              where=lambda at: f"pair {at[0]}")  # fmt: skip
        yield compare(
            "pair_maps", f"{expected['method']} of {expected['site']}, {where}", expected["values"], found.mean_share, source,
            entry["tolerance"], where=lambda at: f"{', '.join(f'{k} {i}' for k, i in zip(found.axes, at))}",
        )  # fmt: skip
    if "inside" in entry:
        for name, got in inside(model, pairs).items():
            yield compare(
                "pair_maps", f"{name}, clean runs", entry["inside"][name], got, source, entry["inside_tolerance"]
            )


def inside(model, pairs):
    """What the stream at each depth, each layer's parts and each head add to logit(clean answer) - logit(corrupted answer) of the
    clean runs' last position, through the final layer norm at its own scale; means over pairs, as TransformerLens has them."""
    each = [parts(model, *pair.tokens(model)[::2]) for pair in pairs]
    return {name: np.mean([of_pair[name] for of_pair in each], axis=0) for name in each[0]}


def parts(model, tokens, answers):
    run, weights, eps = model.run(tokens), model.weights, model.config.layer_norm_epsilon
    direction = weights.ln_f.weight * (weights.wte[answers[0]] - weights.wte[answers[1]])  # [n_embd]
    reads = (direction - direction.mean()) / np.sqrt(run.resid_post[-1, -1].var() + eps)
    depths = [x[-1] for pair in zip(run.resid_pre, run.resid_mid) for x in pair] + [run.resid_post[-1, -1]]
    written = [x[-1] for pair in zip(run.attn_out, run.mlp_out) for x in pair]
    embedded = [weights.wte[tokens[-1]], weights.wpe[len(tokens) - 1]]
    heads = [(run.z[layer, :, -1] - own_bias(model, layer)).reshape(-1) for layer in range(model.config.n_layer)]
    rows = [h.attn.c_proj.weight @ reads for h in weights.h]  # n_layer of [n_embd]
    return {
        "accumulated": np.array(depths) @ reads,
        "per layer": np.array(embedded + written) @ reads,
        "per head": np.array([(z * row).reshape(model.config.n_head, -1).sum(axis=1) for z, row in zip(heads, rows)]),
    }


def own_bias(model, layer):
    """What a head's z has of biases, [n_head, d_head]: TransformerLens counts it with the layer's bias, not with the head."""
    h, n_embd = model.weights.h[layer], model.config.n_embd
    v = (h.ln_1.bias @ h.attn.c_attn.weight + h.attn.c_attn.bias)[2 * n_embd :]
    return v.reshape(model.config.n_head, -1)


def check_head_scores(subject, entry, facts):
    """Means over texts, each a list of random tokens given twice."""
    runs = [subject.model.run(ids * 2, keep=["q", "k"]) for ids in entry["ids"]]
    if not runs:
        raise ValueError("there is nothing to take a mean of")
    for name, expected in entry["scores"].items():
        score = getattr(head_scores, name)
        got = np.mean(
            [score(run) if name == "previous_token" else score(run, len(run.tokens) // 2) for run in runs], axis=0
        )
        yield compare("head_scores", f"{name.replace('_', ' ')}, {got.size} heads", expected, got, entry["source"],
                      entry["tolerance"], where=lambda at: f"head {at[0]}.{at[1]}")  # fmt: skip


def check_probability_differences(subject, entry, facts):
    """The mean over pairs of the probability of all greater years less that of the others, clean runs."""
    years = [(noun, year) for noun, some in entry["years"].items() for year in some]
    fact = f"mean of {len(years)} pairs"
    if not years:
        raise ValueError("there is nothing to take a mean of")
    if missing := subject.missing_vocabulary():
        yield skipped("probability_differences", fact, entry["source"], missing)
        return
    model = subject.model
    two_digits = [model.tokenizer.single_token(f"{year:02d}") for year in range(100)]
    found = []
    for noun, year in years:
        text = entry["text"].format(noun=noun, year=year, century=year // 100)
        p = softmax(subject.last_logits(model.encode(text)))[two_digits]
        found.append(p[year % 100 + 1 :].sum() - p[: year % 100 + 1].sum())
    yield compare("probability_differences", fact, entry["value"], np.mean(found), entry["source"], entry["tolerance"])
