"""Gradient checkpointing, as training turns it on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from ancestral.networks.recompute import Block
from ancestral.training import TrainingState
from ancestral.training.memory import recompute_blocks
from tiny import MODELS, TRAINING, built, images

DATA = images()


@pytest.mark.parametrize("model", MODELS)
def test_the_option_reaches_every_block_of_a_chain(model):
    chain = built(MODELS[model], DATA)
    blocks = [module for module in chain.modules() if isinstance(module, Block)]
    assert bool(blocks) == (model != "vae-mlp")
    for on in (True, False):
        TrainingState(chain, replace(TRAINING, recompute=on))
        assert all(block.recompute is on for block in blocks)


def test_a_module_of_ones_own_is_reached_by_its_attribute():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recompute = False

    own, plain = Own(), nn.Linear(1, 1)
    recompute_blocks(nn.Sequential(own, plain), True)
    assert own.recompute
    assert not hasattr(plain, "recompute")


def test_it_is_true_or_false():
    with pytest.raises(ValueError, match="recompute is 1; it must be true or false"):
        replace(TRAINING, recompute=1)
