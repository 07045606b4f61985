"""What edges, estimates of edges and paths return: a value for each writer and reader, with all that is needed to read it."""

import csv
import io
import json
from dataclasses import dataclass, fields

import numpy as np

from minigpt2.atomic import replacing
from minigpt2.terminal import table

from ..save import paths, versions
from .nodes import readers, writers


@dataclass(frozen=True, eq=False, repr=False)
class EdgeResult:
    """The metric after each edge was patched, [n_writers, n_readers], NaN where there is no edge; of several pairs the mean.

    effects are the values minus base_value, the metric of the run that was patched, and standard_error is theirs over the
    pairs (None for one pair). method is "edges" (exact), "EAP", "EAP-IG", "clean-corrupted" or "path patching".
    """

    values: np.ndarray
    writers: tuple  # their names, in the order of the forward pass
    readers: tuple
    clean_value: float
    corrupted_value: float
    direction: str
    metric: str
    unit: str
    alpha: float
    model: str
    n_pairs: int
    method: str
    standard_error: np.ndarray | None = None

    def __repr__(self):
        return (
            f"EdgeResult({self.method}, {len(self.writers)} writers x {len(self.readers)} readers, {self.n_edges} edges, "
            f"{self.direction}, {self.unit} from {np.nanmin(self.values):.3f} to {np.nanmax(self.values):.3f}; clean "
            f"{self.clean_value:.3f}, corrupted {self.corrupted_value:.3f}; {self.n_pairs} pairs; {self.model})"
        )

    @property
    def base_value(self):
        """The metric of the run that was patched."""
        return self.clean_value if self.direction == "noising" else self.corrupted_value

    @property
    def target_value(self):
        return self.corrupted_value if self.direction == "noising" else self.clean_value

    @property
    def effects(self):
        return self.values - self.base_value

    @property
    def share(self):
        """The effects on the scale from 0 (nothing) to 1 (the other run's value); NaN where both runs have the same."""
        gap = self.target_value - self.base_value
        return self.effects / gap if gap else np.full_like(self.values, np.nan)

    @property
    def mask(self):
        """Where there is an edge."""
        return ~np.isnan(self.values)

    @property
    def n_edges(self):
        return int(self.mask.sum())

    def at(self, writer, reader):
        """The value of one edge, by its names."""
        return float(self.values[self.writers.index(writer), self.readers.index(reader)])

    def order(self, absolute=True):
        """The flat indices of all edges, strongest first; of equal ones the earlier."""
        effects = np.where(self.mask, np.abs(self.effects) if absolute else self.effects, -np.inf).reshape(-1)
        return np.argsort(-effects, kind="stable")[: self.n_edges]

    def top(self, n=20):
        """The n edges of largest effect: [(writer, reader, effect)]."""
        found = (np.unravel_index(i, self.values.shape) for i in self.order()[:n])
        return [(self.writers[w], self.readers[r], float(self.effects[w, r])) for w, r in found]

    def table(self, n=20):
        """The strongest edges as lines of text."""
        rows = []
        for writer, reader, effect in self.top(n):
            at = self.writers.index(writer), self.readers.index(reader)
            error = [] if self.standard_error is None else [f"{self.standard_error[at]:.4f}"]
            rows.append([writer, reader, f"{effect:+.4f}", *error, f"{100 * self.share[at]:+.1f} %"])
        head = ["from", "to", "effect"] + ([] if self.standard_error is None else ["std error"]) + ["of the gap"]
        return table(head, rows)

    def by_head(self, reader=0):
        """One reader's column as [n_layer, n_head]: what each head sends to it; NaN where no edge leads."""
        heads = {name: value for name, value in zip(self.writers, self.values[:, reader]) if name.startswith("a")}
        places = [tuple(int(part[1:]) for part in name.split(".")) for name in heads]
        found = np.full((1 + max(layer for layer, _ in places), 1 + max(head for _, head in places)), np.nan)
        for at, value in zip(places, heads.values()):
            found[at] = value
        return found

    def save(self, path, command=None):
        """Write path.npz (which load_edges reads), .json and .csv (a line for each edge, strongest first)."""
        return save(self, path, command)


class Moments:
    """What is added up over pairs: the values, and the effects and their squares for the standard error."""

    def __init__(self):
        self.n, self.values, self.effects, self.squares = 0, 0.0, 0.0, 0.0

    def add(self, values, base_value):
        effects = values.astype(np.float64) - base_value
        self.dtype, self.n, self.values = values.dtype, self.n + 1, self.values + values.astype(np.float64)
        self.effects, self.squares = self.effects + effects, self.squares + effects * effects

    @property
    def mean(self):
        return (self.values / self.n).astype(self.dtype)

    @property
    def standard_error(self):
        if self.n == 1:
            return None
        variance = np.maximum(self.squares - self.effects * self.effects / self.n, 0) / (self.n - 1)
        return np.sqrt(variance / self.n)


def result_of(model, settings, moments, method):
    """The EdgeResult of several pairs; settings hold what summary() keeps of each."""
    first, n = settings[0], len(settings)
    return EdgeResult(
        values=moments.mean,
        writers=tuple(map(str, writers(model.config))),
        readers=tuple(map(str, readers(model.config))),
        clean_value=float(np.mean([s["clean_value"] for s in settings])),
        corrupted_value=float(np.mean([s["corrupted_value"] for s in settings])),
        n_pairs=n,
        unit=first["unit"] if n == 1 else first["metric"],
        model=model.name,
        method=method,
        standard_error=moments.standard_error,
        **{name: first[name] for name in ("direction", "metric", "alpha")},
    )


# On disk

FORMAT = 1
ARRAYS = ("values", "standard_error")


def save(result, path, command=None):
    about = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ARRAYS}
    about |= {"format": FORMAT, "command": command, "versions": versions()}
    arrays = {name: getattr(result, name) for name in ARRAYS if getattr(result, name) is not None}
    npz, json_path, csv_path = paths(path)
    with replacing(npz) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about, ensure_ascii=False)), **arrays)
    edges = {f"{w}->{r}": effect for w, r, effect in result.top(result.n_edges)}
    with replacing(json_path) as temporary:
        text = json.dumps(about | {"effects": edges}, ensure_ascii=False, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    with replacing(csv_path) as temporary:
        temporary.write_text(spreadsheet(result), encoding="utf-8-sig", newline="")
    return npz


def spreadsheet(result):
    out = io.StringIO()
    write = csv.writer(out).writerow
    errors = result.standard_error
    write(["from", "to", "value", "effect"] + ([] if errors is None else ["standard error"]))
    for i in result.order():
        w, r = np.unravel_index(i, result.values.shape)
        numbers = [result.values[w, r], result.effects[w, r]] + ([] if errors is None else [errors[w, r]])
        write([result.writers[w], result.readers[r], *(repr(float(number)) for number in numbers)])
    return out.getvalue()


def load_edges(path):
    """Read an EdgeResult from the .npz that save wrote. Raises ValueError for a file that is not one, OSError for none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"][()]))
            arrays = {name: file[name] for name in ARRAYS if name in file}
        if about["format"] != FORMAT or arrays["values"].shape != (len(about["writers"]), len(about["readers"])):
            raise ValueError
        about |= {name: tuple(about[name]) for name in ("writers", "readers")}
        return EdgeResult(**{f.name: about[f.name] for f in fields(EdgeResult) if f.name not in ARRAYS}, **arrays)
    except OSError as error:
        raise OSError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:
        raise ValueError(f"{path} is not a result that patching.circuits saved; make it again") from None
