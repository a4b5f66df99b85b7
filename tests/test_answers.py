"""What all checks of exercises ask: right answers pass, others are told what is wrong."""

import pytest
import torch

from gpt2lib.answers import call, close, gradients, is_tensor, names_none_of

x = torch.arange(6, dtype=torch.float64).view(2, 3)


def test_an_error_inside_an_answer_becomes_a_sentence():
    assert call(lambda a, n: a.sum() + n, x, 1) == 16
    with pytest.raises(AssertionError, match=r"RuntimeError.+came in: \(2, 3\)\. Which axis\?"):
        call(lambda a: a @ a, x, hint="Which axis?")
    with pytest.raises(AssertionError, match=r"ZeroDivisionError: division by zero Write"):
        call(lambda: 1 / 0)


def test_a_stub_is_not_an_error():
    def stub():
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        call(stub)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        (None, "a NoneType, not a tensor"),
        (torch.nn.Parameter(x), "a Parameter, not a tensor"),
        (x.T, r"\(3, 2\), but \(2, 3\) was expected. Turned\?"),
        (x.float(), "float32, but torch.float64"),
    ],
)
def test_only_a_tensor_of_that_shape_and_dtype_passes(y, said):
    is_tensor(x, (2, 3), torch.float64, "Turned?")
    with pytest.raises(AssertionError, match=said):
        is_tensor(y, (2, 3), torch.float64, "Turned?")


def test_close_neither_broadcasts_nor_forgives():
    assert close(x, x + 1e-11)
    assert not close(x, x + 1e-6)
    assert not close(torch.ones(3), torch.ones(1))


def test_the_mistake_that_fits_is_named():
    names_none_of(x, {"Doubled.": 2 * x, "Turned.": x.T})
    with pytest.raises(AssertionError, match="Doubled"):
        names_none_of(2 * x, {"Turned.": x.T, "Doubled.": 2 * x})


def test_gradients_are_those_of_the_output_and_zero_where_none_arrives():
    of_x, of_z = gradients(lambda a, z: 3 * a, (x, x))
    assert torch.allclose(of_x, 3 * torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3))
    assert not of_z.any()
    with pytest.raises(AssertionError, match="No gradient arrives"):
        gradients(lambda a: a.detach(), (x,))
