"""GPT-2, built and measured: the library that the book's chapters build, piece by piece.

The front door. Everything else is imported from the module that defines it,
so that the import line tells which file to open.
"""

from gpt2lib.config import GPTConfig, TrainConfig
from gpt2lib.generate import generate
from gpt2lib.model import GPT
from gpt2lib.storyworld import World
from gpt2lib.tokenizer import Tokenizer
from gpt2lib.train import train

__all__ = ["GPT", "GPTConfig", "Tokenizer", "TrainConfig", "World", "generate", "train"]
__version__ = "0.1.0"
