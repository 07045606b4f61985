"""The same matrices as transformer_lens.patching, on the same seeded weights, where TransformerLens is installed.

TransformerLens patches with hooks, one full forward pass each: nothing is shared with this repository but the meaning.
"""

from functools import cache

import numpy as np
import pytest
from models import ODD, random_model, random_weights

from patching import PromptPair, sweep

pytest.importorskip("transformer_lens")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.reference

# float64: as in test_sweep.py. float32: both programs are about 4e-7 from the truth at this size (live_parity.py), in
# each of two logits; the largest of many such sums is some times that.
FLOAT64, FLOAT32 = 1e-11, 5e-6

CLEAN, CORRUPTED, ANSWERS = [3, 1, 4, 5], [3, 7, 4, 6], (2, 8)

# our site and positions: TransformerLens's function, and where its axes stand in ours
SWEEPS = {
    ("resid_pre", None): ("get_act_patch_resid_pre", (0, 1)),
    ("resid_mid", None): ("get_act_patch_resid_mid", (0, 1)),
    ("attn_out", None): ("get_act_patch_attn_out", (0, 1)),
    ("mlp_out", None): ("get_act_patch_mlp_out", (0, 1)),
    ("z", None): ("get_act_patch_attn_head_out_by_pos", (0, 2, 1)),  # [layer, pos, head]
    ("q", None): ("get_act_patch_attn_head_q_by_pos", (0, 2, 1)),
    ("k", None): ("get_act_patch_attn_head_k_by_pos", (0, 2, 1)),
    ("v", None): ("get_act_patch_attn_head_v_by_pos", (0, 2, 1)),
    ("pattern", None): ("get_act_patch_attn_head_pattern_by_pos", (0, 1, 2)),
    ("pattern_entry", None): ("get_act_patch_attn_head_pattern_dest_src_pos", (0, 1, 2, 3)),
    ("z", "all"): ("get_act_patch_attn_head_out_all_pos", (0, 1)),
    ("q", "all"): ("get_act_patch_attn_head_q_all_pos", (0, 1)),
    ("k", "all"): ("get_act_patch_attn_head_k_all_pos", (0, 1)),
    ("v", "all"): ("get_act_patch_attn_head_v_all_pos", (0, 1)),
    ("pattern", "all"): ("get_act_patch_attn_head_pattern_all_pos", (0, 1)),
}


@cache
def lens_and_clean_cache(dtype):
    """TransformerLens's model with our weights, nothing folded or centred, and its cache of the clean run."""
    from live_parity import hugging_face
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    hf = hugging_face(ODD, random_weights(ODD), dtype, "eager")
    lens = build_bridge_from_module(hf, "GPT2LMHeadModel", hf_config=hf.config).eval()
    lens.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    with torch.no_grad():
        return lens, lens.run_with_cache(torch.tensor([CLEAN]))[1]


def transformer_lens_matrix(site, positions, dtype):
    from transformer_lens import patching

    (lens, clean_cache), (function, axes), values = lens_and_clean_cache(dtype), SWEEPS[site, positions], []

    def metric(logits):
        value = logits[0, -1, ANSWERS[1]] - logits[0, -1, ANSWERS[0]]
        values.append(value.item())  # its matrix is float32, whatever the model computes in
        return value

    with torch.no_grad():
        shape = getattr(patching, function)(lens, torch.tensor([CORRUPTED]), clean_cache, metric).shape
    return np.array(values).reshape(shape).transpose(axes)


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, FLOAT64), (np.float32, FLOAT32)], ids=["float64", "float32"])
@pytest.mark.parametrize("site, positions", SWEEPS, ids=str)
def test_the_matrix_is_transformer_lens_own(site, positions, dtype, tolerance):
    ours = sweep(random_model(ODD, dtype), PromptPair.from_tokens(CLEAN, CORRUPTED, ANSWERS), site, positions=positions)
    theirs = transformer_lens_matrix(site, positions, dtype)
    assert ours.values.shape == theirs.shape
    assert abs(ours.values - ours.corrupted_value).max() > 1e-3, "the patches do something"
    difference = abs(ours.values - theirs).max()
    print(f"{site} {positions or 'by position'} {np.dtype(dtype)}: largest difference {difference:.1e}")
    assert difference <= tolerance
