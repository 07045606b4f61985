"""The shape comments are true: every `# [..., n_seq, n_embd]` behind a line is compared with the array that line makes.

The functions are compiled again with a check behind every commented assignment and around every commented return, and
run with sizes that are all different. Names in a comment are the model's sizes, the function's own variables, or
anything that is the same throughout one call. A comment that no run reaches fails too.
"""

import ast
import importlib
import inspect
import io
import re
import sys
import tokenize
from contextlib import contextmanager

import numpy as np
import pytest
from models import ODD, random_model, random_tokens

from minigpt2 import Overwrite, backward, overwrite
from minigpt2 import model as m
from minigpt2.generate import generate
from patching import SITES, PromptPair, attribute, sweep, sweep_one_by_one

N_SEQ = 5
SIZES = {**vars(ODD), "d_head": ODD.d_head, "n_seq": N_SEQ}
DERIVED = {  # names that are a property of the function's own variables
    "n_q": lambda local: local["q"].shape[-2],
    "n_k": lambda local: local["k"].shape[-2],
    "n_out": lambda local: local["weight"].shape[-1],
    "n_rows": lambda local: local["n_rows"],
    "n_patches": lambda local: len(local["group"]),
    "n_members": lambda local: len(local["self"].members),
    "n_positions": lambda local: len(range(N_SEQ)[at] if isinstance(at := local["positions"], slice) else at),
}
SHAPE = re.compile(r"#\s*(\[[^\[\]]+\])")


def comments(source):
    """{line: the shape said there} of trailing comments."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip():
            if match := SHAPE.match(token.string):
                found[token.start[0]] = match[1]
    return found


class Watch(ast.NodeTransformer):
    """Put a check on every commented statement of a function."""

    def __init__(self, said):
        self.said, self.watched = said, {}

    def comment_of(self, node):
        lines = [line for line in range(node.lineno, node.end_lineno + 1) if line in self.said]
        if len(lines) == 1:
            self.watched[lines[0]] = None
            return lines[0]

    def check(self, line, value):
        local = ast.Call(ast.Name("locals", ast.Load()), [], [])
        return ast.Call(ast.Name("__shape_said__", ast.Load()), [ast.Constant(line), value, local], [])

    def visit_Module(self, node):
        node.body = [
            self.visit(part) if isinstance(part, (ast.FunctionDef, ast.ClassDef)) else part for part in node.body
        ]
        return node  # fields of classes have their own test

    visit_ClassDef = visit_Module

    def visit_Return(self, node):
        if line := self.comment_of(node):
            node.value = self.check(line, node.value)
        return node

    def visit_Assign(self, node):
        if line := self.comment_of(node):
            target = node.targets[0]
            name = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(target, ast.Subscript):  # x[...] = value: the comment is about the value
                node.value = self.check(line, node.value)
            elif isinstance(name, ast.Name):
                return [node, ast.Expr(self.check(line, ast.Name(name.id, ast.Load())))]
            elif isinstance(name, ast.Tuple):
                loads = [ast.Name(element.id, ast.Load()) for element in name.elts]
                return [node, ast.Expr(self.check(line, ast.Tuple(loads, ast.Load())))]
            else:
                node.value = self.check(line, node.value)
        return node


def functions_of(module):
    """Every function and method that is defined in a module, by (line of its code, its name)."""
    found = {}
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    for owner in [module, *filter(inspect.isclass, own)]:
        for value in vars(owner).values():
            value = getattr(value, "func", value)  # a cached_property
            value = getattr(value, "__func__", value)  # a classmethod
            if inspect.isfunction(value) and value.__code__.co_filename == module.__file__:
                found[value.__code__.co_firstlineno, value.__name__] = value
    return found


def codes(code):
    yield code
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from codes(constant)


@contextmanager
def watching(module, source=None):
    """Let a module's functions hold their values against their comments. Yields (lines reached, lines watched)."""
    source = inspect.getsource(module) if source is None else source
    said = comments(source)
    watch = Watch(said)
    tree = ast.fix_missing_locations(watch.visit(ast.parse(source)))
    functions, kept, reached, frames = functions_of(module), {}, set(), {}

    def shape_said(line, value, local):
        reached.add(line)
        frame = sys._getframe(1)
        bound = frames.setdefault(id(frame), (frame, {}))[1]
        arrays = [x for x in (value if isinstance(value, tuple) else (value,)) if isinstance(x, np.ndarray)]
        assert arrays, f"{module.__name__} line {line} says a shape, and there is no array"
        for array in arrays:
            compare(said[line], array.shape, local, bound, f"{module.__name__} line {line}")
        return value

    for code in codes(compile(tree, module.__file__, "exec")):
        if function := functions.get((code.co_firstlineno, code.co_name)):
            kept[function] = function.__code__
            function.__code__ = code
    module.__shape_said__ = shape_said
    try:
        yield reached, watch.watched
    finally:
        for function, code in kept.items():
            function.__code__ = code
        del module.__shape_said__


def compare(said, shape, local, bound, where):
    """Hold one shape against its comment. bound: what the free names of this call have turned out to be."""
    entries = [entry.strip() for entry in said.strip("[]").split(",")]
    if entries[0] == "...":
        entries = entries[1:]
        assert len(shape) >= len(entries), f"{where}: {said} was said, and it is {list(shape)}"
        shape = shape[len(shape) - len(entries) :]
    assert len(shape) == len(entries), f"{where}: {said} was said, and it is {list(shape)}"
    for entry, size in zip(entries, shape):
        values = {name: size_of(name, local, bound) for name in re.findall(r"[a-z_]+", entry)}
        if values.get("n_seq") and size == 1 and where.startswith("minigpt2.backward"):
            values["n_seq"] = 1  # activation_gradients begins with the last position alone
        if None in values.values():
            assert entry in values, f"{where}: nobody knows what {entry} is"
            values[entry] = bound[entry] = size
        assert eval(entry, {}, values) == size, f"{where}: {said} was said, and it is {list(shape)}"  # noqa: S307


def size_of(name, local, bound):
    if name in SIZES:
        return SIZES[name]
    if isinstance(local.get(name), int):
        return local[name]
    try:
        return DERIVED[name](local)
    except (KeyError, AttributeError):
        return bound.get(name)


def run_forward():
    """With and without leading axes, n_seq = 5 throughout."""
    model, tokens = random_model(), random_tokens(ODD, N_SEQ)
    run = model.run(tokens)
    run.pattern, run.logits  # noqa: B018
    texts = np.array([[random_tokens(ODD, N_SEQ, 3 * i + j) for j in range(17)] for i in range(4)])
    m.forward(texts, model.weights, ODD)
    m.forward(texts[0], model.weights, ODD)
    model.run_batch(texts[0])
    q = np.ones((2, 3, 7))
    m.attend(q[:, -2:], q, q)  # fewer queries than keys
    m.attend_in_blocks(q[:, -2:], q, q)
    model.run(tokens, overwrites=OVERWRITES)
    run.activation("result", 1)


OVERWRITES = [
    Overwrite(0, "z", 0, heads=[1]), Overwrite(1, "pattern", np.full(N_SEQ, 0.2), positions=[2, 4]),
    Overwrite(1, "result", np.ones((2, N_SEQ, ODD.n_embd))), Overwrite(2, "result", 0, positions=[3]),
]  # fmt: skip


def run_generation():
    model = random_model()
    list(generate(model, random_tokens(ODD, N_SEQ), 2, overwrites=[Overwrite(0, "z", 0)]))


def run_backward():
    model = random_model()
    longer = np.array([random_tokens(ODD, N_SEQ + 1, seed) for seed in range(4)])  # each predicts its last n_seq tokens
    backward.loss_and_gradients(longer, model.weights, ODD)
    for overwrites in ([], OVERWRITES):
        run = model.run(random_tokens(ODD, N_SEQ), overwrites=overwrites)
        backward.activation_gradients(run, np.ones(ODD.n_vocab))


def run_sweeps():
    model, pair = random_model(), PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 6], (2, 8))
    for site in SITES:
        sweep(model, pair, site)
    sweep(model, pair, "mlp_out", metric="clean_log_probability", keep_logits=True)
    sweep_one_by_one(model, pair, "resid_mid", layers=[1])
    sweep(model, pair, "pattern", overwrites=OVERWRITES)
    attribute(model, pair, "v")


MODULES = {
    "minigpt2.model": run_forward, "minigpt2.overwrite": run_forward, "minigpt2.gpt2": run_forward,
    "minigpt2.generate": run_generation, "minigpt2.backward": run_backward, "patching.plan": run_sweeps,
    "patching.sites": run_sweeps, "patching.sources": run_sweeps, "patching.one_pass": run_sweeps,
    "patching.sweeps": run_sweeps, "patching.attribution": run_sweeps,
}  # fmt: skip


@pytest.mark.parametrize("name, run", MODULES.items(), ids=MODULES)
def test_every_shape_comment_is_true(name, run):
    module = importlib.import_module(name)
    with watching(module) as (reached, watched):
        run()
    assert sorted(set(watched) - reached) == [], "no run came past these commented lines"
    assert name != "minigpt2.model" or len(reached) >= 12


def test_sizes_are_all_different():
    assert len(set(SIZES.values())) == len(SIZES)


@pytest.mark.parametrize("true, false", [
    ("# [..., n_seq, n_vocab]", "# [..., n_seq, n_embd]"),
    ("# [..., n_seq, 1]", "# [..., 1, n_seq]"),
    ("# [..., n_head, n_seq, d_head]", "# [..., n_seq, n_head, d_head]"),
    ("# [n_q, n_k]", "# [n_k, n_q]"),
])  # fmt: skip
def test_a_false_comment_is_found(true, false):
    source = inspect.getsource(m)
    assert true in source
    with pytest.raises(AssertionError, match="was said, and it is"), watching(m, source.replace(true, false)):
        run_forward()


def fields_said(cls):
    """{field: the shape said behind it} of a class whose fields are written one a line."""
    lines = inspect.getsource(cls).splitlines()
    found = {}
    for line in lines:
        if match := re.match(r"    (\w+)(?:: [^#]+| = Kept\(\)\s*)#\s*(\[[^\[\]]+\])", line):
            found[match[1]] = match[2]
    return found


def test_every_commented_field_is_true():
    model = random_model()
    run = model.run(random_tokens(ODD, N_SEQ))
    block = model.weights.h[1]
    checked = 0
    for instance in (run, model.weights, block.attn, block.mlp):
        for field, said in fields_said(type(instance)).items():
            value = getattr(instance, field)
            value = value.weight if isinstance(value, m.Affine) else value
            compare(said, value.shape, {}, {}, f"{type(instance).__name__}.{field}")
            checked += 1
    assert checked >= 9 + 2 + 2 + 2


def test_activations_have_the_shapes_that_are_said_of_their_lists():
    source, run = inspect.getsource(overwrite), random_model().run(random_tokens(ODD, N_SEQ))
    for names in ("STREAM", "BY_HEAD"):
        (said,) = re.findall(rf"^{names} = [^#]+#\s*(\[[^\[\]]+\])", source, re.M)
        for name in getattr(overwrite, names):
            last = {"pattern": "n_seq", "result": "n_embd"}.get(name, "d_head")
            compare(said.replace("d_head", last), run.activation(name, 1).shape, {}, {}, name)


def test_gradients_have_the_shapes_of_their_run():
    run = random_model().run(random_tokens(ODD, N_SEQ))
    for name, array in vars(backward.activation_gradients(run, np.ones(ODD.n_vocab))).items():
        assert array.shape == getattr(run, name).shape, name


@pytest.mark.parametrize("site, shape", {
    "resid_pre": (3, 5), "resid_mid": (3, 5), "resid_post": (3, 5), "attn_out": (3, 5), "mlp_out": (3, 5),
    "z": (3, 2, 5), "q": (3, 2, 5), "k": (3, 2, 5), "v": (3, 2, 5), "pattern": (3, 2, 5), "pattern_entry": (3, 2, 5, 5),
}.items())  # fmt: skip
def test_results_have_their_documented_shapes(site, shape):
    pair = PromptPair.from_tokens([3, 1, 4, 1, 5], [3, 1, 7, 1, 6], (2, 8))
    result = sweep(random_model(), pair, site)
    assert result.values.shape == tuple(map(len, result.axes.values())) == shape
    if site != "pattern_entry":
        assert sweep(random_model(), pair, site, positions="all").values.shape == shape[:-1]
