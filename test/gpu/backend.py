"""The CUDA backend's function table through ctypes, and operator calls on torch tensors.

Structures mirror native/include/uniprefill.h and native/src/operators/backend.h field by field.
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
)
Sampler = structure(
    "Sampler",
    *i32("dtype", "rows", "vocab_size", "slots", "logprob_count"),
    *pointers("logits"),
    *i64("logits_stride"),
    *pointers("parameters", "prompt_tokens", "output_counts", "tokens", "logprobs", "top_tokens", "top_logprobs", "non_finite"),
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
]


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

    def select(self, p):
        return self._with_workspace("select", "selection_workspace", p)

    def attend_prefill(self, p):
        return self._with_workspace("attend_prefill", "prefill_attention_workspace", p)

    def attend_decode(self, p):
        return self._with_workspace("attend_decode", "decode_attention_workspace", p)

    def sample(self, p):
        return self._with_workspace("sample", "sampler_workspace", p)

    def gather_rows(self, p):
        self._plain("gather_rows", p)

    def normalise(self, p):
        self._plain("normalise", p)

    def rotate_and_write(self, p):
        self._plain("rotate_and_write", p)

    def activate(self, p):
        self._plain("activate", p)

    def embed(self, p):
        self._plain("embed", p)
