"""Edges of Hugging Face's GPT-2 by PyTorch hooks: nothing is shared with this repository but the meaning.

Every reader of the residual stream, by the name that EAP-IG gives it, can be given an input with something added to it.
"""

from contextlib import ExitStack

import numpy as np
import torch
from live_parity import hugging_face


class TorchEdges:
    def __init__(self, config, weights, dtype=np.float64):
        self.config = config
        self.hf = hugging_face(config, weights, dtype, "eager")
        self.blocks, self.d_head = self.hf.transformer.h, config.n_embd // config.n_head

    def run(self, tokens, added=None, embeddings=None):
        """The last position's logits, with added {reader: [n_seq, n_embd]} on top of what these readers read."""
        return self.run_keeping(tokens, added, embeddings)[0]

    def run_keeping(self, tokens, added=None, embeddings=None):
        """The same, with what each writer adds to the stream, {writer: [n_seq, n_embd]}."""
        added, seen, made = added or {}, {}, {}
        with ExitStack() as stack:
            hook = lambda module, f, pre=False: stack.callback(  # noqa: E731
                (module.register_forward_pre_hook(f) if pre else module.register_forward_hook(f)).remove
            )
            for layer, block in enumerate(self.blocks):
                hook(block.ln_1, lambda _, i, layer=layer: seen.__setitem__(layer, i[0]), pre=True)
                hook(block.attn.c_attn, lambda _, i, out, layer=layer: self.split_inputs(layer, seen, out, added))
                hook(block.ln_2, lambda _, i, name=f"m{layer}": (i[0] + added.get(name, 0),), pre=True)
            hook(self.hf.transformer.ln_f, lambda _, i: (i[0] + added.get("logits", 0),), pre=True)
            if embeddings is not None:
                hook(self.hf.transformer.drop, lambda _, i, out: embeddings[None])
            hook(self.hf.transformer.drop, lambda _, i, out: made.__setitem__("input", out[0]))
            for layer, block in enumerate(self.blocks):
                hook(block.mlp, lambda _, i, out, layer=layer: made.__setitem__(f"m{layer}", out[0]))
                hook(
                    block.attn.c_proj, lambda module, i, out, layer=layer: self.head_outputs(module, i[0], layer, made)
                )
            return self.hf(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1], made

    def head_outputs(self, c_proj, z, layer, made):
        for head in range(self.config.n_head):
            rows = slice(head * self.d_head, (head + 1) * self.d_head)
            made[f"a{layer}.h{head}"] = z[0, :, rows] @ c_proj.weight[rows]

    def split_inputs(self, layer, seen, out, added):
        out, block = out.clone(), self.blocks[layer]
        for k, kind in enumerate("qkv"):
            for head in range(self.config.n_head):
                name = f"a{layer}.h{head}<{kind}>"
                if name in added:
                    x = block.ln_1.weight * normal(seen[layer] + added[name], block.ln_1.eps) + block.ln_1.bias
                    start = k * self.config.n_embd + head * self.d_head
                    columns = slice(start, start + self.d_head)
                    out[..., columns] = x @ block.attn.c_attn.weight[:, columns] + block.attn.c_attn.bias[columns]
        return out

    def outputs(self, tokens):
        with torch.no_grad():
            return self.run_keeping(tokens)[1]

    def gradients(self, tokens, metric, readers, embeddings=None):
        """d(metric of the last logits) / d(input of each reader), {reader: [n_seq, n_embd]}."""
        zero = torch.zeros_like(self.outputs(tokens)["input"])
        added = {r: zero.clone().requires_grad_() for r in readers}
        found = torch.autograd.grad(metric(self.run(tokens, added, embeddings)), list(added.values()))
        return dict(zip(readers, found))

    def circuit(self, tokens, other, edges, mask, writers, readers):
        """The last logits where a reader reads other[writer] unless its edge is in `edges`. What a writer gives depends on
        earlier ones only, so after as many rounds as there are halves of layers nothing changes any more."""
        with torch.no_grad():
            made = self.outputs(tokens)
            for _ in range(2 * self.config.n_layer + 1):
                added = {}
                for r, reader in enumerate(readers):
                    outside = [w for i, w in enumerate(writers) if mask[i, r] and (w, reader) not in edges]
                    added[reader] = sum((other[w] - made[w] for w in outside), torch.zeros_like(made["input"]))
                logits, made = self.run_keeping(tokens, added)
            return logits


def normal(x, eps):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps)
