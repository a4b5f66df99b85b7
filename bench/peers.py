"""Models to be measured: ours, transformers' and, from a checkout that you name, nanoGPT's.

B batch   T time   V vocabulary
"""

import contextlib
import importlib.util
import io
import sys
from pathlib import Path

import torch
from torch import nn

from gpt2lib.config import GPTConfig
from gpt2lib.model import GPT


def ours(config: GPTConfig) -> GPT:
    """gpt2lib's, new weights."""
    torch.manual_seed(0)
    return GPT(config)


def theirs(config: GPTConfig, dtype=torch.float32) -> nn.Module:
    """transformers' GPT2LMHeadModel of the same shape, without dropout."""
    import transformers

    torch.manual_seed(0)
    shape = {"n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    shape |= {"n_positions": config.block_size, "vocab_size": config.vocab_size}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    asked = transformers.GPT2Config(**shape, **still, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(asked).to(dtype)


def nanogpt(config: GPTConfig, checkout: Path, bias: bool = True, seed: int = 0) -> nn.Module:
    """nanoGPT's GPT of the same shape, from model.py in a checkout of it; biases as in GPT-2."""
    name, path = "nanogpt_model", Path(checkout) / "model.py"
    if not path.is_file():
        raise FileNotFoundError(f"a checkout of nanoGPT holds a model.py: there is no {path}.")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module = sys.modules[name]
    torch.manual_seed(seed)
    sizes = (config.block_size, config.vocab_size, config.n_layer, config.n_head, config.n_embd)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its size
        return module.GPT(module.GPTConfig(*sizes, dropout=0.0, bias=bias))
