"""Every operator: the CUDA kernels against the reference, shapes without a device, CUDA graphs, and no gradients."""

import pytest
import torch
from uniprefill import UnsupportedError, operators as ops

LIMIT = 1.5e-2  # of a norm, in bf16


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def normal(*shape):
    return torch.randn(*shape).to(torch.bfloat16)


def delta_states(*shape):
    return torch.zeros(*shape)


def cases():
    """Name → arguments on the CPU: two requests of 190 and 75 rows."""
    lengths, rows, capacity, heads, kv_heads, dim = (190, 75), 265, 256, 4, 2, 64
    keys, values = normal(2, capacity, kv_heads, dim), normal(2, capacity, kv_heads, dim)
    queries, starts = normal(rows, heads, dim), int32(0, 190, 265)
    places = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
    requests = torch.tensor([0] * 190 + [1] * 75, dtype=torch.int32)
    angle = torch.outer(torch.arange(300.0), 1 / 10000 ** (torch.arange(0, dim, 2) / dim))
    cosines, sines = angle.cos(), angle.sin()
    last = normal(2, 128, heads, dim)
    hidden, gate, weight = normal(rows, 256), normal(rows, 512), normal(256)
    bits = torch.randint(-(2**31), 2**31, (kv_heads, 3, 1), dtype=torch.int32)
    wide, taps = normal(rows, 3 * 128), normal(3 * 128, 4)
    decay, beta = -torch.rand(rows, 2), torch.rand(rows, 2)
    none, slots = int32(-1, -1), int32(0, 1)
    head = normal(dim)
    return {
        "select": (last, keys, int32(*lengths), torch.tensor([1 << 31, 3 << 30]), 0.125, 0.0, 16, 0),
        "gather_rows": (hidden, places, int32(100)),
        "attend_prefill": (queries, keys, values, starts, None, places, 0.125, 0.0),
        "attend_sparse": (queries, keys, values, starts, None, places, int32(0, 2), bits, 0.125, 0.0),
        "attend_decode": (queries[:2], keys, values, int32(20, 0), int32(190, 75), 0.125, 20.0),
        "normalise": (hidden, weight, 1e-6, 1.0),
        "add_and_normalise": (hidden, normal(rows, 256), weight, 1e-6, 0.0),
        "add_normed": (hidden, normal(rows, 256), weight, normal(256), 1e-6, 1e-5, 1.0),
        "write_keys": (normal(rows, kv_heads, dim), normal(rows, kv_heads, dim), keys, values, cosines, sines, places, requests,
                       places, head, 1e-6, 1.0),
        "rotate": (normal(rows, heads, 2 * dim)[:, :, :dim], cosines[:, :8].contiguous(), sines[:, :8].contiguous(), places, head,
                   1e-6, 0.0),
        "activate": (gate, 1),
        "apply_gate": (queries, normal(rows, heads, 2 * dim)[:, :, dim:]),
        "delta_prepare": (wide, taps, starts, normal(2, 3, 3 * 128), none, slots, normal(rows, 2), normal(rows, 2), torch.randn(2),
                          torch.randn(2)),
        "recur_prefill": (normal(rows, 1, dim), normal(rows, 1, dim), normal(rows, 2, dim), decay, beta, starts,
                          delta_states(2, 2, dim, dim), none, slots, 1e-6, 0.125),
        "recur_decode": (normal(2, 1, dim), normal(2, 1, dim), normal(2, 2, dim), decay[:2], beta[:2],
                         torch.randn(2, 2, dim, dim), slots, slots, 1e-6, 0.125),
        "normalise_gated": (normal(rows, 2, dim), normal(rows, 2, dim), head, 1e-6),
    }  # fmt: skip


def moved(arguments, device):
    """Copies of the arguments with their strides."""

    def move(value):
        if not isinstance(value, torch.Tensor):
            return value
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return copy.copy_(value)

    return tuple(move(value) for value in arguments)


def tensors(name, arguments, result):
    """What a call leaves: its results, and what it wrote to."""
    if name == "gather_rows":
        return [result[: int(arguments[2])]]
    if name == "select":
        # kept has garbage behind kept_lengths.
        kept, kept_lengths, *rest = result
        return [kept_lengths, *rest, *(kept[b, :n] for b, n in enumerate(kept_lengths.tolist()))]
    written = {"write_keys": (2, 3), "apply_gate": (0,), "delta_prepare": (3,), "recur_prefill": (6,), "recur_decode": (5,)}
    results = [] if result is None else list(result) if isinstance(result, tuple) else [result]
    return results + [arguments[i] for i in written.get(name, ())]


def error(got, expected):
    got, expected = got.double().cpu(), expected.double().cpu()
    return float((got - expected).norm() / expected.norm().clamp(min=1e-12))


def test_every_operator_has_a_case():
    assert sorted(cases()) == sorted(ops.NAMES)


@pytest.mark.parametrize("name", sorted(cases()))
def test_cuda_agrees_with_the_reference(name, cuda):
    arguments = cases()[name]
    own, expected = moved(arguments, cuda), moved(arguments, "cpu")
    own_result, expected_result = getattr(ops, name)(*own), getattr(ops, name)(*expected)
    for got, want in zip(tensors(name, own, own_result), tensors(name, expected, expected_result)):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert torch.isfinite(got.double()).all()
        assert error(got, want) < LIMIT, name


@pytest.mark.parametrize("name", sorted(cases()))
def test_shapes_are_known_without_a_device(name, device):
    arguments = moved(cases()[name], device)
    torch.library.opcheck(getattr(torch.ops.uniprefill, name).default, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", sorted(cases()))
def test_a_captured_graph_gives_the_same(name, cuda):
    arguments = moved(cases()[name], cuda)
    operator = getattr(ops, name)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        operator(*moved(arguments, cuda))
        torch.cuda.synchronize()
        again = moved(arguments, cuda)
        expected = [each.clone() for each in tensors(name, again, operator(*again))]
        graph = torch.cuda.CUDAGraph()
        captured = moved(arguments, cuda)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            result = operator(*captured)
        for target, source in zip(captured, arguments):
            if isinstance(target, torch.Tensor):
                target.copy_(source)
        graph.replay()
        torch.cuda.synchronize()
        for got, want in zip(tensors(name, captured, result), expected):
            assert torch.equal(got, want), name


def test_lengths_may_change_between_replays(cuda):
    arguments = list(moved(cases()["attend_decode"], cuda))
    ops.attend_decode(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = ops.attend_decode(*arguments)
    arguments[4].copy_(int32(44, 9))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, ops.attend_decode(*arguments))


@pytest.mark.parametrize("name", sorted(cases()))
def test_gradients_are_refused_by_name(name, device):
    arguments = list(moved(cases()[name], device))
    first = next(i for i, each in enumerate(arguments) if isinstance(each, torch.Tensor) and each.is_floating_point())
    arguments[first] = arguments[first].clone().requires_grad_()
    with pytest.raises(UnsupportedError, match=f"uniprefill::{name} has no gradient"):
        getattr(ops, name)(*arguments)
    with torch.no_grad():
        getattr(ops, name)(*arguments)


def test_backward_through_a_torch_op_is_refused_by_name(device):
    hidden, weight, eps, offset = moved(cases()["normalise"], device)
    result = torch.ops.uniprefill.normalise(hidden.requires_grad_(), weight, eps, offset)
    with pytest.raises(UnsupportedError, match="uniprefill::normalise has no gradient"):
        result.sum().backward()


def test_the_last_rows_and_the_first_are_always_kept(device):
    arguments = list(moved(cases()["select"], device))
    arguments[3] = torch.zeros_like(arguments[3])
    kept, lengths, *_ = ops.select(*arguments)
    rows = kept[0, : lengths[0]].tolist()
    assert set(range(16)) <= set(rows) and set(range(62, 190)) <= set(rows) and rows == sorted(rows)
    # All 75 rows of the other are among its last 128.
    assert kept[1, : lengths[1]].tolist() == list(range(75))


def test_what_a_kernel_cannot_do_is_named(device):
    from uniprefill import LibraryError

    with pytest.raises(UnsupportedError, match="dtype torch.int64"):
        ops.normalise(torch.ones(2, 256, dtype=torch.int64, device=device), torch.ones(256, device=device), 1e-6, 0.0)
    rows = torch.ones(2, 20, dtype=torch.bfloat16, device=device)
    with pytest.raises(LibraryError, match="up_normalise, check arguments: width is 20.*UP_INVALID_ARGUMENT"):
        ops.normalise(rows, rows[0], 1e-6, 0.0)
