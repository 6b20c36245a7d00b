"""The C library's operators as torch custom operators, `torch.ops.uniprefill.*`.

Each runs on the current stream of its tensors' device, allocates its results and workspace from torch, never waits for the device
and may be captured in a CUDA graph, once it has run before. Tensors on the CPU go to the library's reference: plain loops in double
precision, the oracle of the CUDA kernels, slow. CUDA takes bf16 and f16, the reference f32 and f64 too. There are no gradients:
a call with a tensor that wants one is refused by the operator's name.

Shapes: B requests, R rows of a batch laid end to end (request b has rows row_starts[b] to row_starts[b + 1] - 1), H heads, K heads of
keys and values, D head_dim. Caches of keys and values are [B, capacity, K, D], any strides with a last one of 1. Integers are int32.
"""

import functools
from typing import Optional, Tuple

import torch
from torch import Tensor

from . import structures as up
from .errors import UnsupportedError
from .library import library

_DTYPES = {torch.float32: up.F32, torch.bfloat16: up.BF16, torch.float16: up.F16, torch.float64: up.F64}
NAMES = []


def _dtype(tensor):
    if tensor.dtype not in _DTYPES:
        raise UnsupportedError(f"uniprefill: dtype {tensor.dtype} is not supported: bfloat16 and float16 are, on the CPU float32 too")
    return _DTYPES[tensor.dtype]


def _operator(fake, mutates=()):
    """Makes a torch custom operator of a function; `fake` gives its results' shapes. Gradients are refused at the call."""

    def make(function):
        name = f"uniprefill::{function.__name__}"
        refusal = f"{name} has no gradient, it is for inference: call it under torch.no_grad(), or detach its arguments"
        NAMES.append(function.__name__)
        operator = torch.library.custom_op(name, function, mutates_args=mutates)
        operator.register_fake(fake)

        @functools.wraps(function)
        def call(*arguments):
            if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in arguments):
                raise UnsupportedError(refusal)
            return operator(*arguments)

        if not mutates:
            # For callers of torch.ops.uniprefill; torch takes no formula for operators that write to their arguments.
            def backward(ctx, *gradients):
                raise UnsupportedError(refusal)

            operator.register_autograd(backward)
        return call

    return make


def _run(name, tensor, parameters):
    """Calls up_NAME on the device and stream of a tensor, with the workspace it asks for."""
    own = library()
    if tensor.device.type == "cuda":
        with torch.cuda.device(tensor.device):
            _call(own, name, up.CUDA, parameters, tensor.device, torch.cuda.current_stream().cuda_stream)
    elif tensor.device.type == "cpu":
        _call(own, name, up.REFERENCE, parameters, tensor.device, None)
    else:
        raise UnsupportedError(f"uniprefill::{name}: device {tensor.device} is not supported: cuda is, and cpu for tests")


def _call(own, name, backend, parameters, device, stream):
    if name not in up.WORKSPACES:
        own.call(name, backend, parameters, stream)
        return
    size = own.workspace_bytes(name, backend, parameters)
    workspace = torch.empty(max(size, 16), dtype=torch.uint8, device=device)
    own.call_with(name, backend, parameters, workspace.data_ptr(), size, stream)


def _cache(cache):
    """up_kv of a cache [B, capacity, K, D]."""
    if cache.stride(3) != 1:
        raise UnsupportedError("uniprefill: the elements of a cached head must lie side by side")
    return up.Kv(
        data=cache.data_ptr(),
        page_stride=cache.stride(0),
        row_stride=cache.stride(1),
        head_stride=cache.stride(2),
        page_count=cache.shape[0],
    )


def _rows(tensor):
    """The tensor with its elements of a row side by side."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _heads(tensor):
    """The tensor [R, H, D] with a row's heads side by side."""
    return tensor if tensor.stride(-1) == 1 and tensor.stride(-2) == tensor.shape[-1] else tensor.contiguous()


# ---------------------------------------------------------------------------------------------------- selection


def _select_fake(queries, keys, lengths, p_q32, scale, soft_cap, sink, rule):
    requests, capacity = keys.shape[0], keys.shape[1]
    blocks = -(-capacity // 64)
    shape = [(requests, capacity), (requests,), (requests, -(-blocks // 32)), (requests,)]
    kept = tuple(lengths.new_empty(each, dtype=torch.int32) for each in shape)
    return (*kept, lengths.new_empty((requests, blocks), dtype=torch.int64))


@_operator(_select_fake)
def select(
    queries: Tensor, keys: Tensor, lengths: Tensor, p_q32: Tensor, scale: float, soft_cap: float, sink: int, rule: int
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Which rows of each request to keep, by the attention that its last queries pay to its keys.

    queries [B, last_q ≤ 128, H, D], those of a short request at the front; keys [B, capacity, K, D]; lengths [B] rows of each; p_q32
    [B] int64, the share of mass to keep times 2³²; rule 0 exclusive, 1 reference. Returns kept [B, capacity] (ascending rows, the first
    kept_lengths[b] of them), kept_lengths [B], bitmaps [B, words] of the blocks, fallbacks [B] (1: scores were not finite, all is
    kept) and masses [B, blocks] int64 with 40 fractional bits. The first `sink` and the last last_q rows are always kept.
    """
    requests, last_q, heads, head_dim = queries.shape
    queries = _rows(queries)
    kept, kept_lengths, bitmaps, fallbacks, masses = _select_fake(queries, keys, lengths, p_q32, scale, soft_cap, sink, rule)
    parameters = up.Selection(
        dtype=_dtype(queries), requests=requests, heads=heads, kv_heads=keys.shape[2], head_dim=head_dim, max_rows=keys.shape[1],
        block=64, sink=sink, last_q=last_q, rule=rule, scale=scale, soft_cap=soft_cap, queries=queries,
        query_request_stride=queries.stride(0), query_row_stride=queries.stride(1), query_head_stride=queries.stride(2),
        keys=_cache(keys), lengths=lengths, p_q32=p_q32, masses=masses, bitmaps=bitmaps, kept=kept, kept_lengths=kept_lengths,
        fallbacks=fallbacks,
    )  # fmt: skip
    _run("select", queries, parameters)
    return kept, kept_lengths, bitmaps, fallbacks, masses


def _gather_fake(source, indices, count):
    return source.new_empty((indices.shape[0], *source.shape[1:]))


@_operator(_gather_fake)
def gather_rows(source: Tensor, indices: Tensor, count: Tensor) -> Tensor:
    """target[i] = source[indices[i]] for i < count[0], of source [rows, width]; later rows of target [indices, width] are not written.
    Rows are a multiple of 16 bytes."""
    source = _rows(source)
    target = _gather_fake(source, indices, count)
    parameters = up.Gather(
        max_rows=indices.shape[0], source_rows=source.shape[0], row_bytes=source.shape[1] * source.element_size(),
        source_stride_bytes=source.stride(0) * source.element_size(), target_stride_bytes=target.stride(0) * target.element_size(),
        source=source, indices=indices, count=count, target=target,
    )  # fmt: skip
    _run("gather_rows", source, parameters)
    return target


# ---------------------------------------------------------------------------------------------------- attention


def _attend_prefill_fake(queries, keys, values, row_starts, lo, hi, scale, soft_cap):
    return queries.new_empty(queries.shape)


def _prefill_attention(queries, keys, values, row_starts, lo, hi, scale, soft_cap, output):
    rows, heads, head_dim = queries.shape
    return up.PrefillAttention(
        dtype=_dtype(queries), requests=row_starts.shape[0] - 1, max_query_rows=rows, max_key_rows=keys.shape[1], heads=heads,
        kv_heads=keys.shape[2], head_dim=head_dim, scale=scale, soft_cap=soft_cap, queries=queries,
        query_row_stride=queries.stride(0), query_head_stride=queries.stride(1), keys=_cache(keys), values=_cache(values),
        row_starts=row_starts, lo=lo, hi=hi, output=output, output_row_stride=output.stride(0),
        output_head_stride=output.stride(1),
    )  # fmt: skip


@_operator(_attend_prefill_fake)
def attend_prefill(
    queries: Tensor, keys: Tensor, values: Tensor, row_starts: Tensor, lo: Optional[Tensor], hi: Tensor, scale: float, soft_cap: float
) -> Tensor:
    """Attention of the rows queries [R, H, D] to keys and values [B, capacity, K, D]: row i sees keys lo[i] (None: 0) to hi[i] of its
    request, both inclusive; both are monotone in a request. row_starts [B + 1]. Returns [R, H, D]; a row with hi < lo gives zeros."""
    queries = _rows(queries)
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    _run("attend_prefill", queries, _prefill_attention(queries, keys, values, row_starts, lo, hi, scale, soft_cap, output))
    return output


def _attend_sparse_fake(queries, keys, values, row_starts, lo, hi, block_starts, bitmaps, scale, soft_cap):
    return queries.new_empty(queries.shape)


@_operator(_attend_sparse_fake)
def attend_sparse(
    queries: Tensor, keys: Tensor, values: Tensor, row_starts: Tensor, lo: Optional[Tensor], hi: Tensor, block_starts: Tensor,
    bitmaps: Tensor, scale: float, soft_cap: float,
) -> Tensor:  # fmt: skip
    """attend_prefill that leaves out blocks of 64 keys: bitmaps [K, query_blocks, words] has a bit for each block of keys that a block of
    128 query rows sees; block j of request b has bitmap block_starts[b] + j."""
    queries = _rows(queries)
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    attention = _prefill_attention(queries, keys, values, row_starts, lo, hi, scale, soft_cap, output)
    parameters = up.SparseAttention(
        attention=attention, query_blocks=bitmaps.shape[1], block_starts=block_starts, bitmaps=bitmaps
    )
    _run("attend_sparse", queries, parameters)
    return output


def _attend_decode_fake(queries, keys, values, begin, end, scale, soft_cap):
    return queries.new_empty(queries.shape)


@_operator(_attend_decode_fake)
def attend_decode(
    queries: Tensor, keys: Tensor, values: Tensor, begin: Optional[Tensor], end: Tensor, scale: float, soft_cap: float
) -> Tensor:
    """Attention of one row a request, queries [B, H, D], to keys begin[b] (None: 0) to end[b] - 1. Returns [B, H, D]."""
    queries = _rows(queries)
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    parameters = up.DecodeAttention(
        dtype=_dtype(queries), requests=queries.shape[0], max_key_rows=keys.shape[1], heads=queries.shape[1],
        kv_heads=keys.shape[2], head_dim=queries.shape[2], scale=scale, soft_cap=soft_cap, queries=queries,
        query_row_stride=queries.stride(0), query_head_stride=queries.stride(1), keys=_cache(keys), values=_cache(values),
        begin=begin, end=end, output=output, output_row_stride=output.stride(0), output_head_stride=output.stride(1),
    )  # fmt: skip
    _run("attend_decode", queries, parameters)
    return output


# ---------------------------------------------------------------------------------------------------- rest of a layer


def _normalise_fake(input, weight, eps, weight_offset):
    return input.new_empty(input.shape)


@_operator(_normalise_fake)
def normalise(input: Tensor, weight: Tensor, eps: float, weight_offset: float) -> Tensor:
    """RMS norm of rows [R, width]: x / sqrt(mean(x²) + eps) · (weight_offset + weight)."""
    input = _rows(input)
    output = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    parameters = up.RmsNorm(
        dtype=_dtype(input), rows=input.shape[0], width=input.shape[1], eps=eps, weight_offset=weight_offset, input=input,
        input_stride=input.stride(0), weight=weight, output=output, output_stride=output.stride(0),
    )  # fmt: skip
    _run("normalise", input, parameters)
    return output


def _add_and_normalise_fake(input, residual, weight, eps, weight_offset):
    return input.new_empty(input.shape), input.new_empty(input.shape)


@_operator(_add_and_normalise_fake)
def add_and_normalise(input: Tensor, residual: Tensor, weight: Tensor, eps: float, weight_offset: float) -> Tuple[Tensor, Tensor]:
    """sum = input + residual, rounded, and the RMS norm of the sum, of rows [R, width]. Returns (sum, norm)."""
    input, residual = _rows(input), _rows(residual)
    total, output = (torch.empty(input.shape, dtype=input.dtype, device=input.device) for _ in range(2))
    parameters = up.RmsNorm(
        dtype=_dtype(input), rows=input.shape[0], width=input.shape[1], eps=eps, weight_offset=weight_offset, input=input,
        input_stride=input.stride(0), addend=residual, addend_stride=residual.stride(0), sum=total, sum_stride=total.stride(0),
        weight=weight, output=output, output_stride=output.stride(0),
    )  # fmt: skip
    _run("normalise", input, parameters)
    return total, output


def _add_normed_fake(input, residual, weight, next_weight, eps, next_eps, weight_offset):
    return input.new_empty(input.shape), input.new_empty(input.shape)


@_operator(_add_normed_fake)
def add_normed(
    input: Tensor, residual: Tensor, weight: Tensor, next_weight: Tensor, eps: float, next_eps: float, weight_offset: float
) -> Tuple[Tensor, Tensor]:
    """sum = residual + norm(input, weight), rounded, and norm(sum, next_weight), of rows [R, width]. Returns (sum, norm)."""
    input, residual = _rows(input), _rows(residual)
    total, output = (torch.empty(input.shape, dtype=input.dtype, device=input.device) for _ in range(2))
    parameters = up.PostNorm(
        dtype=_dtype(input), rows=input.shape[0], width=input.shape[1], eps=eps, weight_offset=weight_offset, next_eps=next_eps,
        next_weight_offset=weight_offset, input=input, input_stride=input.stride(0), weight=weight, residual=residual,
        residual_stride=residual.stride(0), sum=total, sum_stride=total.stride(0), next_weight=next_weight, output=output,
        output_stride=output.stride(0),
    )  # fmt: skip
    _run("add_normed", input, parameters)
    return total, output


def _rope(queries, keys, values, key_cache, value_cache, cosines, sines, positions, kv_requests, kv_rows, query_output, norms):
    query_norm, key_norm, norm_eps, norm_weight_offset = norms
    heads = 0 if queries is None else queries.shape[1]
    parameters = up.RopeWrite(
        dtype=_dtype(keys), rows=keys.shape[0], heads=heads, kv_heads=keys.shape[1], head_dim=keys.shape[2],
        rotary_dim=2 * cosines.shape[1], positions_limit=cosines.shape[0], requests=key_cache.shape[0],
        max_key_rows=key_cache.shape[1], cosines=cosines, sines=sines, positions=positions, kv_requests=kv_requests,
        kv_rows=kv_rows, keys=keys, key_row_stride=keys.stride(0), values=values, value_row_stride=values.stride(0),
        key_cache=_cache(key_cache), value_cache=_cache(value_cache), query_norm=query_norm, key_norm=key_norm,
        norm_eps=norm_eps, norm_weight_offset=norm_weight_offset,
    )  # fmt: skip
    if queries is not None:
        parameters.queries, parameters.query_row_stride = queries.data_ptr(), queries.stride(0)
        parameters.query_head_stride = queries.stride(1)
        parameters.query_output, parameters.query_output_row_stride = query_output.data_ptr(), query_output.stride(0)
    _run("rotate_and_write", keys, parameters)


def _write_keys_fake(
    keys, values, key_cache, value_cache, cosines, sines, positions, requests, rows, key_norm, norm_eps, norm_weight_offset
):
    return None


@_operator(_write_keys_fake, mutates=("key_cache", "value_cache"))
def write_keys(
    keys: Tensor, values: Tensor, key_cache: Tensor, value_cache: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor,
    requests: Tensor, rows: Tensor, key_norm: Optional[Tensor], norm_eps: float, norm_weight_offset: float,
) -> None:  # fmt: skip
    """Norms (where key_norm [D] is given) and rotates keys [R, K, D], and writes them and values [R, K, D] to row rows[i] of request
    requests[i] of the caches. cosines and sines [limit, rotary_dim / 2] f32, of the positions [R]. The half-rotation of Llama."""
    norms = (None, key_norm, norm_eps, norm_weight_offset)
    keys, values = _heads(keys), _heads(values)
    _rope(None, keys, values, key_cache, value_cache, cosines, sines, positions, requests, rows, None, norms)


def _rotate_fake(queries, cosines, sines, positions, query_norm, norm_eps, norm_weight_offset):
    return queries.new_empty(queries.shape)


@_operator(_rotate_fake)
def rotate(
    queries: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, query_norm: Optional[Tensor], norm_eps: float,
    norm_weight_offset: float,
) -> Tensor:  # fmt: skip
    """Norms (where query_norm [D] is given) and rotates queries [R, H, D], whose heads may lie apart. Returns [R, H, D]."""
    queries = _rows(queries)
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    # The C operator writes keys and values too: rows that go nowhere, read from the queries.
    nowhere = torch.full_like(positions, -1)
    keys = queries[:, :1]
    cache = output[:1, None, :1]
    _rope(
        queries, keys, keys, cache, cache, cosines, sines, positions, None, nowhere, output,
        (query_norm, None, norm_eps, norm_weight_offset),
    )  # fmt: skip
    return output


def _activate_fake(input, activation):
    return input.new_empty((input.shape[0], input.shape[1] // 2))


@_operator(_activate_fake)
def activate(input: Tensor, activation: int) -> Tensor:
    """activation(gate) · up of input [R, 2 · inner], the gate first; activation 0 SiLU, 1 GELU by tanh. Returns [R, inner]."""
    input = _rows(input)
    output = torch.empty((input.shape[0], input.shape[1] // 2), dtype=input.dtype, device=input.device)
    parameters = up.GatedActivation(
        dtype=_dtype(input), activation=activation, rows=input.shape[0], inner=output.shape[1], input=input,
        input_stride=input.stride(0), output=output, output_stride=output.stride(0),
    )  # fmt: skip
    _run("activate", input, parameters)
    return output


def _apply_gate_fake(attended, gate):
    return None


@_operator(_apply_gate_fake, mutates=("attended",))
def apply_gate(attended: Tensor, gate: Tensor) -> None:
    """attended [R, H, D] *= sigmoid(gate [R, H, D]), in place."""
    gate = _rows(gate)
    parameters = up.OutputGate(
        dtype=_dtype(attended), rows=attended.shape[0], heads=attended.shape[1], head_dim=attended.shape[2], gate=gate,
        gate_row_stride=gate.stride(0), gate_head_stride=gate.stride(1), attended=attended,
        attended_row_stride=attended.stride(0), attended_head_stride=attended.stride(1),
    )  # fmt: skip
    _run("apply_gate", attended, parameters)


# ---------------------------------------------------------------------------------------------------- Gated DeltaNet


def _states(states, source, target):
    return up.States(data=states.data_ptr(), stride=states.stride(0), slots=states.shape[0], source_slots=source.data_ptr(),
                     target_slots=target.data_ptr())  # fmt: skip


def _delta_prepare_fake(input, weight, row_starts, states, source, target, decay_input, beta_input, a_log, dt_bias):
    gates = [input.new_empty(decay_input.shape, dtype=torch.float32) for _ in range(2)]
    return (input.new_empty(input.shape), *gates)


@_operator(_delta_prepare_fake, mutates=("states",))
def delta_prepare(
    input: Tensor, weight: Tensor, row_starts: Tensor, states: Tensor, source: Tensor, target: Tensor, decay_input: Tensor,
    beta_input: Tensor, a_log: Tensor, dt_bias: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The causal convolution and SiLU of q|k|v, input [R, channels], and the gates of value heads. weight [channels, kernel]; states
    [slots, kernel - 1, channels], read at source[b] (-1: zeros) and left at target[b]; decay_input and beta_input [R, heads]; a_log and
    dt_bias [heads] f32. Returns output [R, channels], decay and beta [R, heads] f32."""
    input, weight = _rows(input), weight.contiguous()
    output, decay, beta = _delta_prepare_fake(
        input, weight, row_starts, states, source, target, decay_input, beta_input, a_log, dt_bias
    )
    parameters = up.DeltaInput(
        dtype=_dtype(input), requests=row_starts.shape[0] - 1, max_rows=input.shape[0], channels=input.shape[1],
        kernel=weight.shape[1], input=input, input_row_stride=input.stride(0), weight=weight, row_starts=row_starts,
        states=_states(states, source, target), output=output, output_row_stride=output.stride(0), heads=decay_input.shape[1],
        decay_input=decay_input, decay_input_stride=decay_input.stride(0), beta_input=beta_input,
        beta_input_stride=beta_input.stride(0), a_log=a_log, dt_bias=dt_bias, decay=decay, beta=beta,
    )  # fmt: skip
    _run("delta_prepare", input, parameters)
    return output, decay, beta


def _delta(structure, queries, keys, values, decay, beta, states, source, target, output, norm_eps, scale, **more):
    return structure(
        dtype=_dtype(queries), key_heads=queries.shape[1], value_heads=values.shape[1], key_dim=queries.shape[2],
        value_dim=values.shape[2], normalise=1, norm_eps=norm_eps, scale=scale, queries=queries,
        query_row_stride=queries.stride(0), keys=keys, key_row_stride=keys.stride(0), values=values,
        value_row_stride=values.stride(0), decay=decay, beta=beta, states=_states(states, source, target), output=output,
        output_row_stride=output.stride(0), **more,
    )  # fmt: skip


def _recur_prefill_fake(queries, keys, values, decay, beta, row_starts, states, source, target, norm_eps, scale):
    return values.new_empty(values.shape)


@_operator(_recur_prefill_fake, mutates=("states",))
def recur_prefill(
    queries: Tensor, keys: Tensor, values: Tensor, decay: Tensor, beta: Tensor, row_starts: Tensor, states: Tensor, source: Tensor,
    target: Tensor, norm_eps: float, scale: float,
) -> Tensor:  # fmt: skip
    """The gated delta rule over rows: queries and keys [R, key heads, key dim], divided by their lengths first, values [R, value heads,
    value dim], decay and beta [R, value heads] f32; states [slots, value heads, key dim, value dim] f32, read at source[b] (-1: zeros)
    and left at target[b]. Returns [R, value heads, value dim]."""
    queries, keys, values = _heads(queries), _heads(keys), _heads(values)
    output = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    more = dict(requests=row_starts.shape[0] - 1, max_rows=queries.shape[0], row_starts=row_starts)
    parameters = _delta(
        up.DeltaPrefill, queries, keys, values, decay, beta, states, source, target, output, norm_eps, scale, **more
    )
    _run("recur_prefill", queries, parameters)
    return output


def _recur_decode_fake(queries, keys, values, decay, beta, states, source, target, norm_eps, scale):
    return values.new_empty(values.shape)


@_operator(_recur_decode_fake, mutates=("states",))
def recur_decode(
    queries: Tensor, keys: Tensor, values: Tensor, decay: Tensor, beta: Tensor, states: Tensor, source: Tensor, target: Tensor,
    norm_eps: float, scale: float,
) -> Tensor:  # fmt: skip
    """recur_prefill of one row a request."""
    queries, keys, values = _heads(queries), _heads(keys), _heads(values)
    output = torch.empty(values.shape, dtype=values.dtype, device=values.device)
    more = dict(requests=queries.shape[0])
    parameters = _delta(
        up.DeltaDecode, queries, keys, values, decay, beta, states, source, target, output, norm_eps, scale, **more
    )
    _run("recur_decode", queries, parameters)
    return output


def _normalise_gated_fake(input, gate, weight, eps):
    return input.new_empty(input.shape)


@_operator(_normalise_gated_fake)
def normalise_gated(input: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps), rounded, · weight [D] · silu(gate), of input and gate [R, H, D]. Returns [R, H, D]."""
    input, gate = _heads(input), _heads(gate)
    output = torch.empty(input.shape, dtype=input.dtype, device=input.device)
    parameters = up.GatedNorm(
        dtype=_dtype(input), rows=input.shape[0], heads=input.shape[1], head_dim=input.shape[2], eps=eps, input=input,
        input_row_stride=input.stride(0), gate=gate, gate_row_stride=gate.stride(0), weight=weight, output=output,
        output_row_stride=output.stride(0),
    )  # fmt: skip
    _run("normalise_gated", input, parameters)
    return output
