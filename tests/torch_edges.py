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
        added, seen = added or {}, {}
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
            return self.hf(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]

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
        """What each writer adds to the stream, {writer: [n_seq, n_embd]}."""
        made = {}
        with ExitStack() as stack, torch.no_grad():
            keep = lambda name: lambda _, i, out: made.__setitem__(name, out[0])  # noqa: E731
            stack.callback(self.hf.transformer.drop.register_forward_hook(keep("input")).remove)
            for layer, block in enumerate(self.blocks):
                stack.callback(block.mlp.register_forward_hook(keep(f"m{layer}")).remove)

                def heads(module, inputs, out, layer=layer):
                    for head in range(self.config.n_head):
                        rows = slice(head * self.d_head, (head + 1) * self.d_head)
                        made[f"a{layer}.h{head}"] = inputs[0][0, :, rows] @ module.weight[rows]

                stack.callback(block.attn.c_proj.register_forward_hook(heads).remove)
            self.hf(torch.tensor([list(tokens)]), use_cache=False)
        return made


def normal(x, eps):
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + eps)
