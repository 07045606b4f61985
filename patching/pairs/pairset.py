"""A set of pairs, and positions by role: where in each of its texts the subject, or the end, is.

Pairs of different lengths are the rule, so a map over positions needs a name for them. A role ("subject", "end") is one
position in each pair: a number, or the piece of the clean text whose last token is meant. files.py reads a set from a
file, template.py makes one from a template with slots. Read next: sweeps.py.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from minigpt2 import GPT2

from ..prompts import PromptPair
from . import files, template
from .roles import Span, listed, position


@dataclass(frozen=True)
class PairSet:
    """Pairs in order, each with its place for every role.

    roles[name] has for each pair a position (negative ones count from the end), a Span, or the piece of the clean text
    itself: "Mary", or "Mary#2" for the second one. The role "end", the last position, is always there. called says how
    messages name each pair, "line 7" of a file.
    """

    pairs: Sequence[PromptPair]
    roles: Mapping[str, Sequence[int | str | Span]] | None = None
    called: Sequence[str] | None = None
    left_out: Sequence[str] = ()  # why pairs are not in here, one sentence each

    def __post_init__(self):
        pairs = tuple(self.pairs) if isinstance(self.pairs, Iterable) else ()
        if not pairs or not all(isinstance(pair, PromptPair) for pair in pairs):
            raise ValueError("a PairSet needs a list of at least one PromptPair")
        roles = {"end": (-1,) * len(pairs)} | {name: tuple(spots) for name, spots in (self.roles or {}).items()}
        for name, spots in roles.items():
            if len(spots) != len(pairs):
                raise ValueError(f"the role {name!r} has {len(spots)} places, and there are {len(pairs)} pairs")
        called = tuple(self.called) if self.called else tuple(f"pair {i}" for i in range(len(pairs)))
        for field, value in (
            ("pairs", pairs),
            ("roles", roles),
            ("called", called),
            ("left_out", tuple(self.left_out)),
        ):
            object.__setattr__(self, field, value)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, model: GPT2 | None = None, skip: bool = False) -> "PairSet":
        """Read a CSV or JSON Lines file: see files.py.

        With a model every pair is checked to align, as a sweep does in any case. skip=True leaves out the lines with faults;
        left_out has them. Raises ValueError that lists the faults by line, OSError for a file that cannot be read.
        """
        found = cls(*files.read(path, skip=skip))
        return found if model is None else found.checked(model, found.roles, skip=skip)

    @classmethod
    def from_template(
        cls, clean: str, corrupted: str, answers: Sequence[str], slots: Mapping[str, Sequence[str]], *, model: GPT2,
        n: int, seed: int | str = 0, bos: bool = False, skip: bool = False,
    ) -> "PairSet":  # fmt: skip
        """Make n pairs from a template with slots: see template.make."""
        return cls(*template.make(clean, corrupted, answers, slots, model=model, n=n, seed=seed, bos=bos, skip=skip))

    def __len__(self):
        return len(self.pairs)

    def __iter__(self):
        return iter(self.pairs)

    def __getitem__(self, i) -> "PairSet | PromptPair":
        """One pair, or for a slice the PairSet of it."""
        return self.chosen(range(len(self))[i]) if isinstance(i, slice) else self.pairs[i]

    def chosen(self, some: Iterable[int]) -> "PairSet":
        """The PairSet of some of the pairs, by their numbers."""
        some = list(some)
        roles = {name: [spots[i] for i in some] for name, spots in self.roles.items()}
        return PairSet([self.pairs[i] for i in some], roles, [self.called[i] for i in some], self.left_out)

    def __repr__(self):
        return f"PairSet({len(self)} pairs, roles {', '.join(self.roles)}; the first is {self.pairs[0]!r})"

    def position(self, model: GPT2, i: int, role: str) -> int:
        """The position of a role in pair i."""
        if role not in self.roles:
            raise ValueError(f"unknown role {role!r:.60}; this set has {', '.join(self.roles)}")
        return position(model, self.pairs[i], self.roles[role][i], role)

    def lengths(self, model: GPT2) -> list[int]:
        """The number of tokens of each pair."""
        return [len(pair.tokens(model).clean) for pair in self.pairs]

    def checked(self, model: GPT2, roles: Iterable[str] = (), *, skip: bool = False) -> "PairSet":
        """This set, every pair of it aligned and every role in place: ValueError lists all that are not.

        With skip=True these are left out, and left_out says why.
        """
        roles, faults = tuple(roles), {}
        for i, pair in enumerate(self.pairs):
            try:
                pair.tokens(model)
                for role in roles:
                    self.position(model, i, role)
            except ValueError as error:
                faults[i] = f"{self.called[i]}: {str(error).splitlines()[0]}"
        if not faults:
            return self
        if not skip or len(faults) == len(self):
            raise ValueError(listed(f"{len(faults)} of {len(self)} pairs cannot be used", faults.values(), skip))
        kept = self.chosen(i for i in range(len(self)) if i not in faults)
        return PairSet(kept.pairs, kept.roles, kept.called, (*self.left_out, *faults.values()))

    def check_one_length(self, model: GPT2) -> None:
        """Raise ValueError, saying how many pairs have which length, unless all have the same."""
        counts = Counter(self.lengths(model))
        if len(counts) > 1:
            told = ", ".join(f"{n} pair{'s' * (n > 1)} of {length} tokens" for length, n in sorted(counts.items()))
            raise ValueError(
                f"a map by position needs texts of one length, and there are {told}: give positions as roles "
                f'({", ".join(self.roles)}), or positions="all"'
            )
