"""The parameters of the C operators, field by field as in native/include/uniprefill/{operators,layers,mixers}.h.

`tests/test_structures.py` compares every offset with what a C compiler makes of the headers.
"""

import ctypes
from ctypes import c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

F32, BF16, F16, F64 = 0, 1, 2, 3
REFERENCE, CUDA = 0, 1
RULES = {"exclusive": 0, "reference": 1}
SILU, GELU_TANH = 0, 1


class UpError(ctypes.Structure):
    _fields_ = [("status", c_int32), ("operation", c_char_p), ("phase", c_char_p), ("detail", c_char_p)]


class Kv(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("pages", c_void_p),
        ("pages_stride", c_int64),
        ("page_stride", c_int64),
        ("row_stride", c_int64),
        ("head_stride", c_int64),
        ("page_size", c_int32),
        ("page_count", c_int32),
        ("table_rows", c_void_p),
        ("table_count", c_int32),
    ]


class States(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("stride", c_int64),
        ("slots", c_int32),
        ("snapshots", c_int32),
        ("source_slots", c_void_p),
        ("target_slots", c_void_p),
        ("snapshot_starts", c_void_p),
        ("snapshot_rows", c_void_p),
        ("snapshot_slots", c_void_p),
    ]


class LogitEdits(ctypes.Structure):
    _fields_ = [
        ("starts", c_void_p),
        ("tokens", c_void_p),
        ("values", c_void_p),
        ("edits", c_int32),
        ("masks_count", c_int32),
        ("mask_rows", c_void_p),
        ("masks", c_void_p),
    ]


class Parameters(ctypes.Structure):
    """A struct whose first field is its size. Tensors among the values stand for their addresses."""

    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **{name: address(value) for name, value in fields.items()})


def address(value):
    return value.data_ptr() if hasattr(value, "data_ptr") else value


def structure(name, *fields):
    return type(name, (Parameters,), {"_fields_": [("size", c_size_t), *fields]})


def i32(*names):
    return [(name, c_int32) for name in names]


def i64(*names):
    return [(name, c_int64) for name in names]


def f32(*names):
    return [(name, c_float) for name in names]


def pointers(*names):
    return [(name, c_void_p) for name in names]


Selection = structure(
    "Selection",
    *i32("dtype", "requests", "heads", "kv_heads", "head_dim", "max_rows", "block", "sink", "last_q", "rule"),
    *f32("scale", "soft_cap"),
    *pointers("queries"),
    *i64("query_request_stride", "query_row_stride", "query_head_stride"),
    ("keys", Kv),
    *pointers("lengths", "p_q32", "masses", "bitmaps", "kept", "kept_lengths", "fallbacks"),
)
Gather = structure(
    "Gather",
    *i32("max_rows", "source_rows"),
    *i64("row_bytes", "source_stride_bytes", "target_stride_bytes"),
    *pointers("source", "indices", "count", "target"),
)
PrefillAttention = structure(
    "PrefillAttention",
    *i32("dtype", "requests", "max_query_rows", "max_key_rows", "heads", "kv_heads", "head_dim"),
    *f32("scale", "soft_cap"),
    *pointers("queries"),
    *i64("query_row_stride", "query_head_stride"),
    ("keys", Kv),
    ("values", Kv),
    *pointers("row_starts", "lo", "hi", "output"),
    *i64("output_row_stride", "output_head_stride"),
)
DecodeAttention = structure(
    "DecodeAttention",
    *i32("dtype", "requests", "max_key_rows", "heads", "kv_heads", "head_dim"),
    *f32("scale", "soft_cap"),
    *pointers("queries"),
    *i64("query_row_stride", "query_head_stride"),
    ("keys", Kv),
    ("values", Kv),
    *pointers("begin", "end", "output"),
    *i64("output_row_stride", "output_head_stride"),
)
RmsNorm = structure(
    "RmsNorm",
    *i32("dtype", "rows", "width", "source_rows"),
    *f32("eps", "weight_offset"),
    *pointers("input"),
    *i64("input_stride"),
    *pointers("indices", "addend"),
    *i64("addend_stride"),
    *pointers("sum"),
    *i64("sum_stride"),
    *pointers("weight", "output"),
    *i64("output_stride"),
    *pointers("count"),
)
RopeWrite = structure(
    "RopeWrite",
    *i32("dtype", "rows", "heads", "kv_heads", "head_dim", "rotary_dim", "positions_limit", "requests", "max_key_rows"),
    *pointers("cosines", "sines", "positions", "kv_requests", "kv_rows", "queries"),
    *i64("query_row_stride"),
    *pointers("keys"),
    *i64("key_row_stride"),
    *pointers("values"),
    *i64("value_row_stride"),
    *pointers("query_output"),
    *i64("query_output_row_stride"),
    ("key_cache", Kv),
    ("value_cache", Kv),
    *i64("query_head_stride"),
    *pointers("query_norm", "key_norm"),
    *f32("norm_eps", "norm_weight_offset"),
)
PostNorm = structure(
    "PostNorm",
    *i32("dtype", "rows", "width", "source_rows"),
    *f32("eps", "weight_offset", "next_eps", "next_weight_offset"),
    *pointers("input"),
    *i64("input_stride"),
    *pointers("weight", "residual"),
    *i64("residual_stride"),
    *pointers("indices", "sum"),
    *i64("sum_stride"),
    *pointers("next_weight", "output"),
    *i64("output_stride"),
    *pointers("count"),
)
OutputGate = structure(
    "OutputGate",
    *i32("dtype", "rows", "heads", "head_dim"),
    *pointers("gate"),
    *i64("gate_row_stride", "gate_head_stride"),
    *pointers("attended"),
    *i64("attended_row_stride", "attended_head_stride"),
)
SparseAttention = structure(
    "SparseAttention",
    ("attention", PrefillAttention),
    *i32("query_blocks"),
    *pointers("block_starts", "bitmaps"),
)
DeltaInput = structure(
    "DeltaInput",
    *i32("dtype", "requests", "max_rows", "channels", "kernel"),
    *pointers("input"),
    *i64("input_row_stride"),
    *pointers("weight", "row_starts"),
    ("states", States),
    *pointers("output"),
    *i64("output_row_stride"),
    *i32("heads"),
    *pointers("decay_input"),
    *i64("decay_input_stride"),
    *pointers("beta_input"),
    *i64("beta_input_stride"),
    *pointers("a_log", "dt_bias", "decay", "beta"),
)
DELTA_SHAPE = [*i32("key_heads", "value_heads", "key_dim", "value_dim", "normalise"), *f32("norm_eps", "scale")]
DELTA_ROWS = [
    *pointers("queries"),
    *i64("query_row_stride"),
    *pointers("keys"),
    *i64("key_row_stride"),
    *pointers("values"),
    *i64("value_row_stride"),
    *pointers("decay", "beta"),
]
DELTA_OUTPUT = [("states", States), *pointers("output"), *i64("output_row_stride")]
DeltaPrefill = structure(
    "DeltaPrefill",
    *i32("dtype", "requests", "max_rows"),
    *DELTA_SHAPE,
    *DELTA_ROWS,
    *pointers("row_starts"),
    *DELTA_OUTPUT,
)
DeltaDecode = structure("DeltaDecode", *i32("dtype", "requests"), *DELTA_SHAPE, *DELTA_ROWS, *DELTA_OUTPUT)
GatedNorm = structure(
    "GatedNorm",
    *i32("dtype", "rows", "heads", "head_dim"),
    *f32("eps"),
    *pointers("input"),
    *i64("input_row_stride"),
    *pointers("gate"),
    *i64("gate_row_stride"),
    *pointers("weight", "output"),
    *i64("output_row_stride"),
)
MoeRouter = structure(
    "MoeRouter",
    *i32("dtype", "rows", "experts", "top_k", "renormalise"),
    *pointers("logits"),
    *i64("logits_stride"),
    *pointers("chosen", "weights"),
)
Moe = structure(
    "Moe",
    *i32("dtype", "activation", "rows", "hidden", "inner", "experts", "top_k"),
    *pointers("input"),
    *i64("input_stride"),
    *pointers("chosen", "weights", "gate_up", "down", "shared"),
    *i64("shared_stride"),
    *pointers("shared_gate"),
    *i64("shared_gate_stride"),
    *pointers("output"),
    *i64("output_stride"),
)
GatedActivation = structure(
    "GatedActivation",
    *i32("dtype", "activation", "rows", "inner"),
    *pointers("input"),
    *i64("input_stride"),
    *pointers("output"),
    *i64("output_stride"),
)
Embedding = structure(
    "Embedding",
    *i32("dtype", "rows", "width", "vocab_size"),
    *f32("scale"),
    *pointers("tokens", "table"),
    *i64("table_stride"),
    *pointers("output"),
    *i64("output_stride"),
    *pointers("last_tokens"),
    *i32("slots"),
)
LogitEdit = structure(
    "LogitEdit",
    *i32("dtype", "rows", "vocab_size"),
    *f32("soft_cap"),
    *pointers("logits"),
    *i64("logits_stride"),
    ("edits", LogitEdits),
)
Sampler = structure(
    "Sampler",
    *i32("dtype", "rows", "vocab_size", "slots", "logprob_count"),
    *pointers("logits"),
    *i64("logits_stride"),
    *pointers("parameters", "prompt_tokens", "output_counts", "tokens", "logprobs", "top_tokens", "top_logprobs", "non_finite"),
    ("edits", LogitEdits),
    *pointers("forced", "last_tokens"),
    *i32("count_outputs"),
)

# One row of up_sample_row as a numpy dtype.
SAMPLE_ROW = [
    ("seed", "u8"),
    ("index", "u8"),
    ("temperature", "f4"),
    ("top_p", "f4"),
    ("min_p", "f4"),
    ("frequency_penalty", "f4"),
    ("presence_penalty", "f4"),
    ("repetition_penalty", "f4"),
    ("top_k", "i4"),
    ("slot", "i4"),
]

# The workspace query of each operator that has one.
WORKSPACES = {
    "select": "selection_workspace",
    "attend_prefill": "prefill_attention_workspace",
    "attend_decode": "decode_attention_workspace",
    "sample": "sampler_workspace",
    "attend_sparse": "sparse_attention_workspace",
    "recur_prefill": "delta_prefill_workspace",
    "run_experts": "moe_workspace",
}

# The C struct that each mirrors.
C_NAMES = {
    "UpError": "up_error",
    "Kv": "up_kv",
    "States": "up_states",
    "LogitEdits": "up_logit_edits",
    "Selection": "up_selection",
    "Gather": "up_gather",
    "PrefillAttention": "up_prefill_attention",
    "DecodeAttention": "up_decode_attention",
    "SparseAttention": "up_sparse_attention",
    "RmsNorm": "up_rms_norm",
    "PostNorm": "up_post_norm",
    "RopeWrite": "up_rope_write",
    "GatedActivation": "up_gated_activation",
    "OutputGate": "up_output_gate",
    "Embedding": "up_embedding",
    "LogitEdit": "up_logit_edit",
    "Sampler": "up_sampler",
    "DeltaInput": "up_delta_input",
    "DeltaPrefill": "up_delta_prefill",
    "DeltaDecode": "up_delta_decode",
    "GatedNorm": "up_gated_norm",
    "MoeRouter": "up_moe_router",
    "Moe": "up_moe",
}
