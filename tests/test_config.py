"""gpt2lib.config: the numbers fit together, or a sentence says which do not."""

import math

import pytest

from gpt2lib.config import SIZES, GPTConfig, TrainConfig

FACTS = {  # Source: Radford et al. 2019, table 2; counts by openai/gpt-2's own variables
    "gpt2": (12, 12, 768, 124_439_808),
    "gpt2-medium": (24, 16, 1024, 354_823_168),
    "gpt2-large": (36, 20, 1280, 774_030_080),
    "gpt2-xl": (48, 25, 1600, 1_557_611_200),
}


@pytest.mark.parametrize("name", FACTS)
def test_the_published_sizes_have_the_published_shapes_and_counts(name):
    config = GPTConfig.named(name)
    assert (config.n_layer, config.n_head, config.n_embd, config.n_params()) == FACTS[name]
    assert (config.block_size, config.vocab_size) == (1024, 50257)


def test_every_named_size_can_be_made_and_changed():
    for name in SIZES:
        assert GPTConfig.named(name, vocab_size=300).vocab_size == 300
    assert GPTConfig() == GPTConfig.named("gpt2")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"n_embd": 768, "n_head": 10}, "multiple of n_head: got n_embd=768, n_head=10"),
        ({"n_layer": 0}, "n_layer must be a whole number of at least 1: got 0"),
        ({"n_embd": 12.0}, "n_embd must be a whole number"),
        ({"n_head": True}, "n_head must be a whole number"),
        ({"vocab_size": "50257"}, "vocab_size must be a whole number"),
        ({"block_size": -1}, "block_size must be a whole number"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"dropout": math.nan}, "dropout is a probability"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_a_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        GPTConfig(**changes)


def test_an_unknown_size_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'gpt3'.*gpt2-medium"):
        GPTConfig.named("gpt3")


@pytest.mark.parametrize(
    "changes",
    [
        *({"steps": 0}, {"steps": 2.5}, {"batch_size": 0}, {"accumulation": 0}, {"warmup": -1}),
        *({"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"muon_lr": -1.0}),
        *({"muon_momentum": 1.0}, {"muon_momentum": -0.1}),
        *({"lr_floor": 1.5}, {"clip": -1.0}, {"clip": math.nan}, {"weight_decay": -0.1}),
        *({"optimizer": "sgd"}, {"schedule": "constant"}, {"precision": "float16"}),
    ],
    ids=str,
)
def test_a_recipe_that_means_nothing_is_refused_by_the_name_of_its_field(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        TrainConfig(**changes)


def test_the_papers_recipe_is_adamw_on_a_cosine_to_a_tenth():
    paper = TrainConfig.paper(steps=7)
    assert (paper.optimizer, paper.schedule, paper.lr, paper.lr_floor, paper.steps) == (
        *("adamw", "cosine", 6e-4, 0.1, 7),
    )
    assert (paper.betas, paper.weight_decay, paper.clip) == ((0.9, 0.95), 0.1, 1.0)
