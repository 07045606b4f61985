# %% From a model to a finding: how does the bundled GPT-2 remember a surname?
#
# "Michelle Jones was a top-notch student. Michelle" is continued with " Jones". Somewhere between reading the surname and
# needing it again, the model must carry it from one position to another. This script finds out where, by which heads, and
# how those know where to look, and then tries to be wrong about it. Run it as a whole (python docs/finding.py) or cell by
# cell in an editor.
#
# What is found holds for the bundled model. It says nothing yet about GPT-2 small.

import random
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout works as it lies, installed or not

from minigpt2 import GPT2, Overwrite  # noqa: E402
from minigpt2 import model as m  # noqa: E402
from minigpt2.bundled.corpus import held_out_name  # noqa: E402
from minigpt2.bundled.words import FIRST_NAMES, SURNAMES  # noqa: E402
from minigpt2.lens import direct_logit_attribution, logit_lens  # noqa: E402
from patching import PromptPair, sweep  # noqa: E402

np.set_printoptions(formatter={"float": "{:6.2f}".format}, linewidth=120)
model = GPT2.from_pretrained("bundled")
n_layer, n_head = model.config.n_layer, model.config.n_head
print(model)

# %% The behaviour
#
# Before asking how, see that it does. Neither full name stood in the training texts, so this is not a memorised pair.

pair = PromptPair(
    clean="Michelle Jones was a top-notch student. Michelle",
    corrupted="Michelle Smith was a top-notch student. Michelle",
    answers=(" Jones", " Smith"),
)
tokens = pair.tokens(model)
clean, corrupted = model.run_batch([tokens.clean, tokens.corrupted])
for text, run in ((pair.clean, clean), (pair.corrupted, corrupted)):
    p = m.softmax(run.logits[-1])
    print(f"{text}{model.decode([p.argmax()])!r} ({p.max():.3f})")

# %% Where is the surname?
#
# Write clean vectors into the corrupted run, one layer and position at a time. share is 0 where nothing changes and 1
# where the answer is wholly the clean one. Only two columns have anything in them.

stream = sweep(model, pair, "resid_post")
SURNAME, LAST = tokens.first_difference, len(tokens.clean) - 1
print(f"share of the gap, by layer, at position {SURNAME} (the surname):", stream.share[:, SURNAME] + 0.0)
print(f"                      and at position {LAST} (the last token):", stream.share[:, LAST] + 0.0)
others = np.delete(stream.share, [SURNAME, LAST], axis=1)
print(f"any other position: {np.abs(others).max():.3f} at most")
moving = [layer for layer in range(1, n_layer) if stream.share[layer, LAST] - stream.share[layer - 1, LAST] > 0.1]
print("the last position gains it in layers", moving)

# %% Which heads carry it?
#
# Only attention moves anything between positions. So patch z, what a head has read, head by head at the last position.

heads = sweep(model, pair, "z", positions=[LAST]).share[:, :, 0]  # [n_layer, n_head]
print("share of the gap, layer by head, z at the last position:")
print(heads)
carriers = [(layer, head) for layer, head in np.argwhere(heads > 0.05).tolist()]
rest = [(layer, head) for layer in range(n_layer) for head in range(n_head) if (layer, head) not in carriers]
print("heads above 0.05:", " ".join(f"{layer}.{head}" for layer, head in carriers))
print(f"largest of the rest: {max(heads[at] for at in rest):.2f}")

# No single head matters much; all heads of two layers matter a little. The line at 0.05 is our choice, and the largest of
# the rest is not far below it.

# %% Where do they look, and what do they take?
#
# In the clean run their attention from the last position goes to the surname. And of the four things that make up a head,
# only the values at the surname's position differ between the two texts in a way that counts: what is read differs, not
# where they look.

at_surname = clean.pattern[:, :, LAST, SURNAME]  # [n_layer, n_head]
print("attention from the last position to the surname, those heads:", np.array([at_surname[at] for at in carriers]))
print(f"the heads of layers 0 and 1, at most: {at_surname[:2].max():.2f}")
for site, position in (("v", SURNAME), ("k", SURNAME), ("q", LAST), ("pattern", LAST)):
    share = sweep(model, pair, site, positions=[position]).share[:, :, 0]
    print(f"{site:8} at position {position:2}: those heads add up to {sum(share[at] for at in carriers):5.2f}")

# %% Is it these heads? A causal check
#
# Effects of single patches need not add up, so patch all of these heads at once: run the base text with their z overwritten
# at one position. Against it, all other heads; and the same heads at another position.


def patched_together(base, source, heads, pos):
    """The last position's logits of base, with the z of several heads at one position taken from source."""
    overwrites = [Overwrite(layer, "z", source, heads=[head], positions=[pos]) for layer, head in heads]
    return model.run(base.tokens, overwrites=overwrites).logits[-1]


def moved(base, source, answers, heads, pos):
    """How far such a patch moves the logit difference from base (0) to source (1)."""
    difference = lambda logits: logits[answers[1]] - logits[answers[0]]  # noqa: E731
    start, end = difference(base.logits[-1]), difference(source.logits[-1])
    return (difference(patched_together(base, source, heads, pos)) - start) / (end - start)


ANSWERS = tokens.answers
print("patched together                             denoising  noising")
for what, some, pos in (
    (f"the {len(carriers)} heads, last position", carriers, LAST),
    (f"the {len(rest)} other heads, last position", rest, LAST),
    (f"the {len(carriers)} heads, the position before", carriers, LAST - 1),
    ("all heads, last position", carriers + rest, LAST),
):
    into_corrupted = moved(corrupted, clean, ANSWERS, some, pos)
    into_clean = moved(clean, corrupted, ANSWERS, some, pos)
    print(f"{what:43} {into_corrupted + 0.0:10.2f} {into_clean + 0.0:8.2f}")

# Together they are nearly enough to bring the answer (denoising), and nearly all that is needed to lose it (noising).

# %% Do two other methods agree?
#
# The logit lens reads each layer's stream as if it were the last; direct attribution splits the final logit difference
# into what each head and MLP wrote. Neither patches anything.

lens = logit_lens(clean, chosen=ANSWERS)
print("logit lens at the last position, from the embedding up:", *model.labels(lens.top_tokens[:, LAST, 0]))
jones_over_smith = lens.chosen_logits[:, LAST, 0] - lens.chosen_logits[:, LAST, 1]
print("logit(Jones) - logit(Smith) there:", jones_over_smith)

writes = [direct_logit_attribution(run, *ANSWERS) for run in (clean, corrupted)]
change = writes[0].heads - writes[1].heads  # what the surname changes about each head's writing
total = writes[0].total - writes[1].total
print(f"direct attribution, clean minus corrupted, {total:.2f} in all:")
print(
    f"  the {len(carriers)} heads {sum(change[at] for at in carriers):.2f}, other heads {sum(change[at] for at in rest):.2f}"
)
mlps = writes[0].mlp - writes[1].mlp
last_mlp = int(np.abs(mlps).argmax())
print(f"  the MLP of layer {last_mlp} {mlps[last_mlp]:.2f}, the other MLPs {np.delete(mlps, last_mlp).sum():.2f}")

# The same layers and the same heads stand out. The last MLP writes the answer too, but from what they brought: patching
# their z alone moved nearly the whole difference, the MLP's part included.

# %% How do they know where to look?
#
# If they look for the token after an earlier mention of the same first name, then another first name there should turn
# them away. It does.

first_name = PromptPair(pair.clean, "Jessica Jones was a top-notch student. Michelle", pair.answers)
stranger = model.run(first_name.tokens(model).corrupted)
now = np.array([stranger.pattern[(*at, LAST, SURNAME)] for at in carriers])
print("attention from the last position to the surname if it is Jessica's:", now)

# So the surname's position must hold a note of the name before it, and the heads must read the note in their keys. Write
# the stranger's vectors into the clean run (noising) at that position alone: what destroys the answer was needed.

noise = dict(direction="noising", positions=[SURNAME])
notes = sweep(model, first_name, "attn_out", **noise).share[:, 0]
writer = int(notes.argmax())
print("attn_out at the surname, by layer:", notes)
print(
    f"z at the surname, layer {writer} by head: ", sweep(model, first_name, "z", layers=[writer], **noise).share.ravel()
)
print("their attention to the name before:", clean.pattern[writer, :, SURNAME, SURNAME - 1])
print("k at the surname, layer 3 by head: ", sweep(model, first_name, "k", layers=[3], **noise).share.ravel())

# Attention of one early layer writes the note, in the heads that look one position back. The keys of layer 3 read it, none of
# them alone decisive. This has the form of the induction circuit of Olsson et al. (arXiv 2209.11895): heads that note the
# previous token, and later heads that find the place where the current token stood before and copy what followed it.

# %% Control: is it about these two names?
#
# The heads above were chosen on one pair. Take them, unchanged, to other first names and other surnames, in three
# sentences, again only full names that training never contained; beside them as many heads drawn at random from the rest,
# at the same position.

SENTENCES = (
    "{name} was a top-notch student. {first}",
    "{name} lived near the park. {first}",
    "In the morning it was cold. {name} had a dog. Then {first}",
)
rng = random.Random(0)
rows = []
while len(rows) < 60:
    first, sentence = rng.choice(FIRST_NAMES), SENTENCES[len(rows) % len(SENTENCES)]
    two = [last for last in SURNAMES if held_out_name(first, last)]
    texts = [sentence.format(name=f"{first} {last}", first=first) for last in rng.sample(two, 2)]
    ids = [model.encode(text) for text in texts]
    answers = [next(a for a, b in zip(*some) if a != b) for some in (ids, ids[::-1])]
    runs = model.run_batch(ids)
    right = all(run.logits[-1].argmax() == answer for run, answer in zip(runs, answers))
    random_heads = rng.sample(rest, len(carriers))
    rows.append((right, *(moved(runs[1], runs[0], answers, some, -1) for some in (carriers, random_heads))))
right, these, random_ones = np.array(rows, float).T
print(f"{len(rows)} other pairs; in {int(right.sum())} the model knows both surnames")
print(f"the {len(carriers)} heads:     mean share {these.mean():.2f}, from {these.min():.2f} to {these.max():.2f}")
print(
    f"as many random ones: mean share {random_ones.mean():.2f}, from {random_ones.min():.2f} to {random_ones.max():.2f}"
)

# %% What was found, and what was not
#
# Found, in this model: a surname stays at its position through the lower layers; the heads of layers 3 and 4 fetch it
# from there to the position where it is needed, each a part of it; they find it by the first name before it, which heads
# of layer 1 have noted there. The same heads do it for other names and in other sentences.
#
# Not found: what the MLPs do in between, why block 0 matters at the surname's own position (docs/patching.md),
# what the model does with two people, whose surnames must be told apart, and whether the eight heads differ in what they
# do. All patches were made within one family of sentences; the claim reaches no further.
