"""Tensor: what goes in and out, and how it behaves among Python's numbers and numpy's."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import DEVICE

import tritonnet as tn


def test_numbers_go_in_as_torch_reads_them() -> None:
    for data in (3, 2.5, [1, 2], [[1.0], [2.0]], np.float64(3), np.float32(2), np.arange(6.0).reshape(2, 3).T[::-1]):
        made, expected = tn.tensor(data), torch.tensor(np.ascontiguousarray(data) if np.ndim(data) == 2 else data)
        assert made.shape == tuple(expected.shape)
        assert (made.numpy() == expected.numpy()).all()
    assert tn.tensor(np.float64(3)).dtype == torch.float32


def test_arithmetic_with_numpy_numbers_and_division() -> None:
    x = tn.tensor([1.0, 2.0])
    assert (np.float32(2) * x + np.int64(1) - 1).numpy().tolist() == [2, 4]
    assert (x / np.float32(2)).numpy().tolist() == [0.5, 1]
    zero = tn.tensor([1.0, -1.0, 0.0])
    for divisor in (0, 0.0, -0.0):
        np.testing.assert_array_equal((zero / divisor).numpy(), (torch.tensor([1.0, -1.0, 0.0]) / divisor).numpy())


def test_truth_text_and_arrays() -> None:
    assert not tn.tensor([0.0])
    assert tn.tensor(2.0)
    with pytest.raises(tn.Refused, match="one element"):
        bool(tn.tensor([1.0, 2.0]))
    assert f"{tn.tensor(1.5):.3f}" == "1.500"
    assert f"{tn.tensor([1.5])}" == "tn.Tensor([1.5], dtype=float32)"
    x = tn.rand(2, 3, 4, 5)
    assert np.asarray(x).shape == x.shape
    assert np.array(x, dtype="float64").dtype == np.float64


def test_to_takes_torchs_arguments() -> None:
    x = tn.tensor([1.0])
    assert x.to(DEVICE) is x.to(device=DEVICE) is x.to(torch.float32) is x
    assert x.to(DEVICE, torch.float16).dtype == x.to(dtype=torch.float16).dtype == torch.float16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x + torch.ones(1), "other must be a tritonnet Tensor or a number, got <class 'torch.Tensor'>"),
        (lambda x: np.ones(1) * x, "other must be a tritonnet Tensor or a number, got <class 'numpy.ndarray'>"),
        (lambda x: x / x, "the divisor must be a number"),
        (lambda x: x.to(torch.float64), "dtype must be a torch.dtype other than float64"),
        (lambda x: x.to("meta"), "the device of this process is"),
        (lambda x: tn.Parameter(3), "data must be a tritonnet Tensor, got int"),
        (lambda x: tn.from_numpy(np.ones(2, "float32")[::-1]), "value must be a numeric numpy array, got ndarray"),
        (lambda x: tn.from_numpy(np.ones(2)), "value must not be float64"),
        (lambda x: tn.ops.argmax(torch.ones(1, 2, 2, 2), 1), "input must be a tritonnet Tensor"),
        (lambda x: tn.ops.softmax(tn.tensor([1, 2]), 0), "input must be float32 or bfloat16 or float16, got int64"),
    ],
)
def test_refuses(call, message) -> None:
    with pytest.raises(tn.Refused, match=message):
        call(tn.tensor([1.0]))


@pytest.mark.parametrize("through", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_a_module_stand_alone(through) -> None:
    module = tn.nn.Sequential(tn.nn.Conv2d(2, 3, 3), tn.nn.BatchNorm2d(3))
    x = tn.rand(1, 2, 4, 4)
    module(x).sum().backward()
    optimizer = tn.optim.Adam(module.parameters(), lr=0.1)
    optimizer.step()
    again, its = through((module, optimizer))
    assert repr(again) == repr(module)
    for one, its_optimizer in ((module, optimizer), (again, its)):
        its_optimizer.zero_grad()
        (one(x) * one(x)).sum().backward()
        its_optimizer.step()
    for ours, theirs in zip(module.parameters(), again.parameters(), strict=True):
        assert ours.data.data_ptr() != theirs.data.data_ptr()
        assert (ours.numpy() == theirs.numpy()).all()
