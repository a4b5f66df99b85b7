"""What the checks of the exercises ask of a learner's answer, whatever the exercise.

Each of them says what is wrong in an AssertionError, as a sentence: the symptom, the likely cause,
one thing to look at. Built for the book's own exercises, and for yours.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def call(
    answer: Callable, *args: Any, hint: str = "Write the shape beside each step, and compare."
) -> Any:
    """answer(*args); an error inside it becomes a sentence with the shapes that came in, and hint.

    A stub's NotImplementedError goes through as it is.
    """
    try:
        return answer(*args)
    except NotImplementedError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
        came = f" The shapes that came in: {shapes}." if shapes else ""
        raise AssertionError(
            f"It stopped with {type(error).__name__}: {error}{came} {hint}"
        ) from error


def is_tensor(y: Any, shape: tuple[int, ...], dtype: torch.dtype, hint: str) -> None:
    """Let only a real tensor of this shape and dtype pass; hint is on the shape."""
    said = None
    if type(y) is not Tensor:
        said = f"It returned a {type(y).__name__}, not a tensor: is the return missing?"
    elif tuple(y.shape) != shape:
        said = f"The shape is {tuple(y.shape)}, but {shape} was expected. {hint}"
    elif y.dtype != dtype:
        said = (
            f"The dtype is {y.dtype}, but {dtype} was expected: is a tensor inside made without "
            "the dtype of what came in? Look at every torch.zeros and torch.tensor."
        )
    if said:
        raise AssertionError(said)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of float64 agree in shape, and in their numbers to about nine digits."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def names_none_of(y: Tensor, mistakes: dict[str, Tensor]) -> None:
    """Let y pass if no mistake, {what to say: what it would give}, gives y."""
    for sentence, wrong in mistakes.items():
        if close(y, wrong):
            raise AssertionError(sentence)


def gradients(f: Callable, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a fixed weighted sum of f(*tensors); zeros where none arrives."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    y = call(f, *tensors)
    if not y.requires_grad:
        raise AssertionError(
            "No gradient arrives anywhere: is something detached, or made a number with .item() "
            "or .numpy()? Look at each step between the inputs and the result."
        )
    ramp = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return torch.autograd.grad((y * ramp).sum(), tensors, materialize_grads=True)
