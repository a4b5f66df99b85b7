"""The numbers that fix a model, and the numbers that fix a training run.

    L n_layer   H n_head   C n_embd   T block_size   V vocab_size

block_size is the longest sequence the model can read; the literature also calls
it context length, or n_ctx.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, Self, get_args, get_origin


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT.

    n_layer blocks, n_head heads in each, n_embd channels in the residual stream,
    block_size positions, vocab_size tokens; dropout is a probability.
    The defaults are GPT-2 small. Raises ValueError where the sizes do not fit together.
    Built in the chapter on GPT-2. Source: Radford et al. 2019, table 2.
    """

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50257
    dropout: float = 0.0

    def __post_init__(self):
        for field in fields(self)[:5]:
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"{field.name} must be a whole number of at least 1: got {value!r}."
                )
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd must be a multiple of n_head: got n_embd={self.n_embd}, "
                f"n_head={self.n_head}. GPT-2 small uses 768 and 12."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout is a probability, at least 0 and under 1: got {self.dropout!r}."
            )

    @classmethod
    def named(cls, name: str, **changes) -> Self:
        """A published size ("gpt2", "gpt2-medium", …) or a small one of ours ("tiny", …).

        changes replaces single fields: named("gpt2", dropout=0.1).
        Raises ValueError for a name that is not in the table.
        """
        if name not in SIZES:
            raise ValueError(f"no size is called {name!r}: choose from {', '.join(SIZES)}.")
        n_layer, n_head, n_embd, block_size, vocab_size = SIZES[name]
        return replace(cls(n_layer, n_head, n_embd, block_size, vocab_size), **changes)

    def n_params(self) -> int:
        """How many parameters the model has, by formula: V·C + T·C + L·(12·C² + 13·C) + 2·C.

        Token table (it is the output head too), position table, blocks, final LayerNorm.
        """
        L, C, T, V = self.n_layer, self.n_embd, self.block_size, self.vocab_size
        return V * C + T * C + L * (12 * C**2 + 13 * C) + 2 * C


SIZES = {  # name: n_layer, n_head, n_embd, block_size, vocab_size
    "gpt2": (12, 12, 768, 1024, 50257),
    "gpt2-medium": (24, 16, 1024, 1024, 50257),
    "gpt2-large": (36, 20, 1280, 1024, 50257),
    "gpt2-xl": (48, 25, 1600, 1024, 50257),
    "tiny": (2, 2, 32, 64, 257),  # for tests: milliseconds a step
    "nano": (4, 4, 128, 64, 257),  # nanoGPT's for a CPU, byte by byte
    "small": (3, 4, 128, 256, 1024),  # for a laptop: a couple of minutes on Storyworld
    "storyteller": (4, 2, 128, 256, 1024),  # the later chapters use it: a quarter of an hour
}


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained; every field is a flag of `gpt2lib pretrain`.

    The defaults are the fast recipe for a small model: Muon on the matrices, AdamW
    elsewhere. TrainConfig.paper() is the recipe of the GPT papers.
    Built in the chapter on pretraining.
    """

    steps: int = 1500  # updates of the weights
    batch_size: int = 8  # sequences a forward pass, of all processes together
    accumulation: int = 1  # forward passes an update; their gradients are averaged
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 6e-3  # peak learning rate of AdamW
    muon_lr: float = 3e-2  # peak learning rate of Muon, on the matrices of the blocks
    muon_momentum: float = 0.95  # of the running mean that Muon follows; less suits short runs
    warmup: int = 50  # steps over which the learning rate rises from 0
    schedule: Literal["linear", "cosine"] = "linear"
    lr_floor: float = 0.0  # the schedule ends at this fraction of the peak
    weight_decay: float = 0.1  # on matrices only
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0  # largest norm of the gradient; 0 never clips
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 where it is fast
    compile: bool = False
    seed: int = 1337

    def __post_init__(self):
        for field in fields(self):
            choices, value = get_args(field.type), getattr(self, field.name)
            if get_origin(field.type) is Literal and value not in choices:
                raise ValueError(f"{field.name} must be one of {choices}: got {value!r}.")
        for name, least in (("steps", 1), ("batch_size", 1), ("accumulation", 1), ("warmup", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}: got {value!r}."
                )
        for name in ("lr", "muon_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0 and finite: got {getattr(self, name)}.")
        if not 0 <= self.muon_momentum < 1:
            raise ValueError(
                f"muon_momentum must be at least 0 and under 1: got {self.muon_momentum}."
            )
        if not 0 <= self.lr_floor <= 1:
            raise ValueError(f"lr_floor is a fraction of the peak: got {self.lr_floor}.")
        if not (self.clip >= 0 and self.weight_decay >= 0):
            raise ValueError(
                f"clip and weight_decay cannot be negative: got {self.clip}, {self.weight_decay}."
            )

    @classmethod
    def paper(cls, **changes) -> Self:
        """GPT-2's recipe as far as it is known, the gaps filled from GPT-3's.

        AdamW at 6e-4 with betas 0.9 and 0.95, decay 0.1, clip 1, cosine to a tenth.
        Source: Brown et al. 2020, table 2.1 (the 125M row) and appendix B.
        """
        return replace(cls(optimizer="adamw", lr=6e-4, schedule="cosine", lr_floor=0.1), **changes)
