"""A model and its runs sent to another process: by name where it has one, once per process, read-only as before."""

import concurrent.futures
import pickle

import numpy as np
import pytest
from checkpoints import byte_vocabulary, config_fields, make_arrays, stored, write_folder
from models import ODD, cast, random_model, random_weights
from test_model import RUN_ARRAYS, TOKENS

from minigpt2 import GPT2, Config
from minigpt2.checkpoint.weights import flatten
from minigpt2.errors import CheckpointError

BIG = Config(n_layer=2, n_head=2, n_embd=64, n_ctx=64, n_vocab=257, d_mlp=256)  # 500 kB of weights


@pytest.fixture
def folder(tmp_path):
    tensors = {name: stored(array) for name, array in make_arrays(BIG).items()}
    folder = write_folder(tmp_path / "model", tensors, config_fields(BIG))
    for name, text in zip(("vocab.json", "merges.txt"), byte_vocabulary()):
        (folder / name).write_text(text)
    return folder


def again(thing):
    return pickle.loads(pickle.dumps(thing))


def assert_read_only(arrays):
    for name, array in arrays.items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        assert not array.flags.writeable, name


def test_a_loaded_model_is_sent_by_name_and_loaded_once(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = GPT2.from_pretrained("model", np.float64)
    data = pickle.dumps(model)
    assert len(data) < 1000
    monkeypatch.chdir("/")  # another process may have another working directory
    first, second = pickle.loads(data), pickle.loads(data)
    assert first is second and first.name == "model" and first.dtype == np.float64 and first.config == model.config
    np.testing.assert_array_equal(first.run(TOKENS).logits, model.run(TOKENS).logits)
    assert first.encode("text") == model.encode("text")
    assert_read_only(flatten(first.weights))
    assert pickle.dumps(first) == data


def test_the_bundled_model_is_sent_by_name():
    model = GPT2.from_pretrained("bundled")
    assert len(pickle.dumps(model)) < 1000 and again(model).name == "bundled"


def loss_of(model):
    return float(model.run(TOKENS).logits.sum())


def test_processes_give_the_same_number(folder):
    from multiprocessing import get_context

    model = GPT2.from_pretrained(folder)
    with concurrent.futures.ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(loss_of, [model] * 3)) == [loss_of(model)] * 3


def test_a_folder_that_was_trained_on_since_is_refused(folder):
    data = pickle.dumps(GPT2.from_pretrained(folder))
    arrays = make_arrays(BIG)
    arrays["h.1.mlp.c_fc.bias"][-1] += 1e-3
    write_folder(folder, {name: stored(array) for name, array in arrays.items()}, config_fields(BIG))
    with pytest.raises(CheckpointError, match="holds other weights than when"):
        pickle.loads(data)
    assert again(GPT2.from_pretrained(folder)).weights.h[1].mlp.c_fc.bias[-1] == arrays["h.1.mlp.c_fc.bias"][-1]


def test_a_model_of_ones_own_is_sent_with_its_arrays():
    model = random_model()
    copy = again(model)
    assert (copy.name, copy.config) == (model.name, model.config)
    for name, array in flatten(copy.weights).items():
        np.testing.assert_array_equal(array, flatten(model.weights)[name])
    assert_read_only(flatten(copy.weights))


def test_a_run_comes_back_whole_and_read_only(model):
    run = model.run(TOKENS)
    before = {name: getattr(run, name) for name in RUN_ARRAYS}
    copy = again(run)
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(copy, name), array, err_msg=name)
    assert copy.tokens == run.tokens
    assert_read_only({name: getattr(copy, name) for name in RUN_ARRAYS})
    assert np.shares_memory(copy.resid_pre[1:], copy.resid_post[:-1])


def test_a_run_that_kept_little_comes_back_with_that(model):
    copy = again(model.run(TOKENS, keep=["z"]))
    assert not copy.z.flags.writeable
    with pytest.raises(AttributeError, match="did not keep mlp_out"):
        copy.mlp_out  # noqa: B018


# The caller's own arrays


def test_a_model_holds_views_and_leaves_the_callers_arrays_writeable():
    weights = cast(random_weights(ODD), np.float32)
    model = GPT2(ODD, weights)
    assert_read_only(flatten(model.weights))
    for name, array in flatten(weights).items():
        assert array.flags.writeable and np.shares_memory(array, flatten(model.weights)[name])
