"""The CUDA backend's function table through ctypes, and operator calls on torch tensors.

Structures mirror native/include/uniprefill/{operators,layers,mixers}.h and native/src/operators/backend.h field by field.
"""

import ctypes
from ctypes import c_char, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

import torch

BF16, F16, F32 = 1, 2, 0
DTYPES = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32}


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
    def __init__(self, **fields):
        super().__init__(size=ctypes.sizeof(self), **{k: address(v) for k, v in fields.items()})


def address(value):
    return value.data_ptr() if isinstance(value, torch.Tensor) else value


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


class Error(ctypes.Structure):
    _fields_ = [("phase", c_char * 64), ("detail", c_char * 448)]


class OperatorFailed(Exception):
    def __init__(self, name, status, error):
        self.status = status
        super().__init__(f"{name}: status {status}, {error.phase.decode()}: {error.detail.decode()}")


ENTRIES = [
    ("selection_workspace", True),
    ("select", False),
    ("gather_rows", None),
    ("prefill_attention_workspace", True),
    ("attend_prefill", False),
    ("decode_attention_workspace", True),
    ("attend_decode", False),
    ("normalise", None),
    ("rotate_and_write", None),
    ("activate", None),
    ("embed", None),
    ("sampler_workspace", True),
    ("sample", False),
    ("sparse_attention_workspace", True),
    ("attend_sparse", False),
    ("add_normed", None),
    ("apply_gate", None),
    ("edit_logits", None),
    ("delta_prepare", None),
    ("delta_prefill_workspace", True),
    ("recur_prefill", False),
    ("recur_decode", None),
    ("normalise_gated", None),
    ("route", None),
    ("moe_workspace", True),
    ("run_experts", False),
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


class Table(ctypes.Structure):
    _fields_ = [("abi", c_int32), ("name", c_char_p), ("available", c_void_p)] + [(name, c_void_p) for name, _ in ENTRIES]


class Backend:
    """Calls operators on the current torch stream; `workspace_of` sizes and caches scratch by operator."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.up_cuda_backend.restype = ctypes.POINTER(Table)
        self.table = self.lib.up_cuda_backend().contents
        self.name = self.table.name.decode()
        self.workspaces = {}
        error = Error()
        available = ctypes.CFUNCTYPE(c_int32, ctypes.POINTER(Error))(self.table.available)
        self._check("available", available(ctypes.byref(error)), error)

    def _check(self, name, status, error):
        if status != 0:
            raise OperatorFailed(name, status, error)

    def workspace_bytes(self, name, p):
        size, error = c_size_t(), Error()
        function = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)(getattr(self.table, name))
        self._check(name, function(ctypes.byref(p), ctypes.byref(size), ctypes.byref(error)), error)
        return size.value

    def _plain(self, name, p):
        error = Error()
        function = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)(getattr(self.table, name))
        self._check(name, function(ctypes.byref(p), torch.cuda.current_stream().cuda_stream, ctypes.byref(error)), error)

    def _with_workspace(self, name, query, p):
        needed = self.workspace_bytes(query, p)
        scratch = self.workspaces.get(name)
        if scratch is None or scratch.numel() < needed:
            # Garbage, so that nothing can rely on zeros.
            scratch = torch.full((max(needed, 1),), 0xA5, dtype=torch.uint8, device="cuda")
            self.workspaces[name] = scratch
        error = Error()
        function = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p)(getattr(self.table, name))
        status = function(
            ctypes.byref(p), scratch.data_ptr(), needed, torch.cuda.current_stream().cuda_stream, ctypes.byref(error)
        )
        self._check(name, status, error)
        return needed

    def __getattr__(self, name):
        """Each operator of the table as a method."""
        if name in WORKSPACES:
            return lambda p: self._with_workspace(name, WORKSPACES[name], p)
        if (name, None) in ENTRIES:
            return lambda p: self._plain(name, p)
        raise AttributeError(name)
