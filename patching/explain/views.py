"""Both runs of a pair from inside, beside the map of patches: what each layer would predict, and what adds to the answer.

Patching asks what changing a vector does; these two ask what a vector says as it stands: minigpt2/lens.py computes it,
minigpt2/pictures/runs.py draws it.
"""

import numpy as np

from minigpt2.lens import direct_logit_attribution, logit_lens

from .numbers import SEEN, percent, signed

RUNS = ("clean", "corrupted")


class LensOfBoth:
    """The logit lens of the clean and of the corrupted run."""

    name = option = "lens"
    heading = "Logit lens at the last position: the likeliest next token if the model stopped there"

    keep = ()  # of activations, beside the stream

    def __init__(self, both):
        self.lenses = [logit_lens(run, chosen=both.tokens.answers) for run in both.runs]
        self.model, self.answers = both.model, both.tokens.answers

    def figures(self):
        from minigpt2.pictures import runs  # matplotlib, which only pictures need

        return [runs.lens_figure(lens, f"{name} text") for name, lens in zip(RUNS, self.lenses)]

    def tables(self):
        """What each depth predicts at the last position, for each run: (title, head, rows)."""
        clean, corrupted = self.model.labels(self.answers)
        head = ["After", "Token", "Probability", f"{corrupted} - {clean}"]
        for name, lens in zip(RUNS, self.lenses):
            top, gains = self.model.labels(lens.top_tokens[:, -1, 0]), np.diff(lens.chosen_logits[:, -1])[:, 0]
            cells = zip(depths(len(top)), top, lens.top_probabilities[:, -1, 0], gains)
            yield f"The {name} run", head, [[depth, token, f"{p:.2f}", signed(gain)] for depth, token, p, gain in cells]

    def conclusions(self):
        """From where on each run predicts what it will predict in the end."""
        sentences = []
        for name, lens in zip(RUNS, self.lenses):
            tokens = lens.top_tokens[:, -1, 0]
            others = np.flatnonzero(tokens != tokens[-1])
            first = int(others[-1]) + 1 if others.size else 0
            depth, is_last = depths(len(tokens))[first], first == len(tokens) - 1
            since = f"only after {depth}, the last" if is_last else f"from {depth} on"
            final = self.model.labels([tokens[-1]])[0]
            sentences.append(f"The final prediction of the {name} run, {final}, is the likeliest token {since}.")
        return sentences


def depths(n):
    return ["the embedding" if depth == 0 else f"layer {depth - 1}" for depth in range(n)]


class WritersOfBoth:
    """Direct logit attribution of the clean and of the corrupted run: corrupted answer minus clean answer."""

    name, option = "direct-attribution", "direct_attribution"
    heading = "Direct logit attribution: the parts of the model whose additions to the last position differ most"
    keep = ("z", "mlp_out")

    def __init__(self, both):
        clean, corrupted = both.tokens.answers
        self.both = [direct_logit_attribution(run, corrupted, clean) for run in both.runs]

    def figures(self):
        from minigpt2.pictures import runs  # matplotlib, which only pictures need

        return [runs.attribution_figure(a, f"{name} text", self.both) for name, a in zip(RUNS, self.both)]

    def tables(self, n=10):
        """The terms that differ most between the runs: (title, head, rows)."""
        clean, corrupted = (dict(a.terms) for a in self.both)
        names = sorted(clean, key=lambda term: -abs(corrupted[term] - clean[term]))[:n]
        cells = [(name, clean[name], corrupted[name], corrupted[name] - clean[name]) for name in names]
        cells.append(("everything", *(a.total for a in self.both), self.gap))
        head = ["Added by", "Clean", "Corrupted", "Difference"]
        yield self.both[0].question, head, [[name, *map(signed, values)] for name, *values in cells]

    @property
    def gap(self):
        return self.both[1].total - self.both[0].total

    def conclusions(self):
        """How much of the difference between the runs attention and MLPs add, and in which layers."""
        clean, corrupted = self.both
        if abs(self.gap) < 1e-3:
            return [f"{clean.question} is the same in both runs, so there is no difference to attribute."]
        attn, mlp = (np.asarray(getattr(corrupted, part) - getattr(clean, part)) / self.gap for part in ("attn", "mlp"))
        rest = 1 - attn.sum() - mlp.sum()
        sentences = [
            f"Of the difference of {signed(self.gap)} between the runs, attention adds {percent(attn.sum())} at "
            f"the last position and the MLPs {percent(mlp.sum())}"
            + (f"; {percent(rest)} is the token there itself." if abs(rest) >= 0.005 else ".")
        ]
        best = [f"layer {i}'s ({percent(attn[i])})" for i in np.argsort(-attn, kind="stable")[:2] if attn[i] >= SEEN]
        verb = "shares are" if len(best) > 1 else "share is"
        return [*sentences, f"Attention's largest {verb} {' and '.join(best)}."] if best else sentences


VIEWS = (LensOfBoth, WritersOfBoth)
