"""What Python shows of a model, a run, a pair and a result: one line that says what it is."""

import pytest

from minigpt2 import GPT2
from patching import PromptPair, sweep
from patching.demo.experiments import EXPERIMENTS


@pytest.fixture(scope="module")
def bundled():
    return GPT2.from_pretrained("bundled")


@pytest.fixture(scope="module")
def pair():
    return EXPERIMENTS["surname"].pair


def test_a_model_says_its_name_and_sizes(bundled):
    expected = "GPT2('bundled', 6 layers, 4 heads, n_embd 128, n_ctx 128, n_vocab 1524, float32)"
    assert repr(bundled) == expected


def test_a_run_says_how_long_it_is_and_by_which_model(bundled, pair):
    assert repr(bundled.run(bundled.encode(pair.clean))) == f"Run(11 tokens through {bundled!r})"


def test_a_pair_says_both_texts_and_answers(pair):
    text = repr(pair)
    assert all(repr(part) in text for part in (pair.clean, pair.corrupted, *pair.answers)) and "\n" not in text
    assert repr(PromptPair.from_tokens([1, 2], [1, 3], (4, 5))) == "PromptPair((1, 2) -> 4, (1, 3) -> 5)"


def test_a_result_says_what_was_patched_and_how_far_the_metric_moves(bundled, pair):
    result = sweep(bundled, pair, layers=[0, 1])
    text = repr(result)
    start = "Result(resid_post by layer x position [2, 11], denoising, logit(␣Smith) - logit(␣Jones) from "
    assert text.startswith(start) and "\n" not in text
    assert f"clean {result.clean_value:.3f}, corrupted {result.corrupted_value:.3f}; bundled)" in text


def test_labels_are_visible_tokens_or_ids(bundled, model):
    assert bundled.labels(bundled.encode("Michelle Jones")) == ["Michelle", "␣Jones"]
    assert model.labels([3, 1]) == ["3", "1"]  # without a vocabulary
