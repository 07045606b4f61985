"""A worked case: which heads of the bundled model does a surname need, alone, in pairs and together?

    python examples/surname_heads.py [PICTURE.png]      (with a name, the interactions of all pairs are drawn)

The heads of layers 3 and 4 read the surname at the last position (docs/finding.py). Here they are put to zero.
"""

import sys

from minigpt2 import GPT2
from minigpt2.terminal import guarded
from patching import PromptPair
from patching.ablations import ablate, interactions, shapley

PAIR = PromptPair(
    "Michelle Jones was a top-notch student. Michelle",
    "Michelle Smith was a top-notch student. Michelle",
    (" Jones", " Smith"),
)
HEADS = [f"{layer}.{head}" for layer in (3, 4) for head in range(4)]


def main():
    model = GPT2.from_pretrained("bundled")
    found = ablate(model, PAIR, HEADS)
    print(f"{found.unit}: {found.intact:+.2f} with every head")
    for head, value in zip(found.parts, found.alone):
        print(f"  without {head}: {value:+.2f}")
    print(f"  without all eight: {found.together:+.2f}")

    intact, ablated = (dict(a.terms) for a in found.direct_attributions())
    changed = sorted(intact, key=lambda term: -abs(ablated[term] - intact[term]))
    others = [term for term in changed if term.removeprefix("head ") not in HEADS][:4]
    print("What else adds to it, with every head and without the eight:")
    print("  " + ", ".join(f"{term} {intact[term]:+.2f} and {ablated[term]:+.2f}" for term in others))

    pairs = interactions(model, PAIR)  # all pairs of heads
    print("The strongest of all pairs of heads:")
    for first, second, value in pairs.strongest(6):
        print(f"  {value:+.2f}  {pairs.describe(first, second)}")

    shares = shapley(model, PAIR, {head: [head] for head in HEADS})
    print(f"Of the {shares.all_groups - shares.none:+.2f} of all eight each head has, by Shapley:")
    print("  " + ", ".join(f"{name} {value:+.2f}" for name, value in zip(shares.groups, shares.values)))

    if sys.argv[1:]:
        from patching.draw.figure import write
        from patching.draw.interactions import figure

        write(figure(pairs), sys.argv[1])
        print(sys.argv[1])


if __name__ == "__main__":
    sys.exit(guarded(main))
