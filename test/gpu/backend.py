"""The CUDA backend's function table through ctypes, and operator calls on torch tensors.

The parameters' structures are the Python package's; the table mirrors native/src/operators/backend.h.
"""

import ctypes
import os
import sys
from ctypes import c_char, c_char_p, c_int32, c_size_t, c_void_p

import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../native/python/src"))
from uniprefill.structures import *  # noqa: E402, F403
from uniprefill.structures import BF16, F16, F32, WORKSPACES  # noqa: E402

DTYPES = {torch.bfloat16: BF16, torch.float16: F16, torch.float32: F32}


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
