"""Token dropping from Python: torch tensors in, kept rows out, through ctypes alone.

usage: select_rows.py [path of libuniprefill.so]

`select` is all that an engine needs; the rest draws an example and compares it with the same thing in torch.
"""

import ctypes
import math
import sys
from ctypes import c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

import torch

CUDA, BF16 = 1, 1


class Kv(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("pages", c_void_p)]
    _fields_ += [(name, c_int64) for name in ("pages_stride", "page_stride", "row_stride", "head_stride")]
    _fields_ += [("page_size", c_int32), ("page_count", c_int32), ("table_rows", c_void_p), ("table_count", c_int32)]


class Selection(ctypes.Structure):
    _fields_ = [("size", c_size_t)]
    _fields_ += [(name, c_int32) for name in ("dtype", "requests", "heads", "kv_heads", "head_dim", "max_rows", "block", "sink")]
    _fields_ += [("last_q", c_int32), ("rule", c_int32), ("scale", c_float), ("soft_cap", c_float), ("queries", c_void_p)]
    _fields_ += [(name, c_int64) for name in ("query_request_stride", "query_row_stride", "query_head_stride")]
    _fields_ += [("keys", Kv)]
    _fields_ += [(name, c_void_p) for name in ("lengths", "p_q32", "masses", "bitmaps", "kept", "kept_lengths", "fallbacks")]


class UpError(ctypes.Structure):
    _fields_ = [("status", c_int32), ("operation", c_char_p), ("phase", c_char_p), ("detail", c_char_p)]


class UniPrefill:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.up_last_error.restype = UpError
        self.check(self.lib.up_backend_available(CUDA))

    def check(self, status):
        if status != 0:
            e = self.lib.up_last_error()
            raise RuntimeError(f"{e.operation.decode()}, {e.phase.decode()}: {e.detail.decode()}")

    def select(self, queries, keys, lengths, p, block=64, sink=128):
        """queries [requests, last_q, heads, d] and keys [requests, rows, kv_heads, d] in bf16, lengths int32 on the device.

        Returns kept [requests, rows] (ascending row indices) and kept_lengths, both on the device.
        """
        requests, last_q, heads, head_dim = queries.shape
        _, rows, kv_heads, _ = keys.shape
        device = queries.device
        kept = torch.empty((requests, rows), dtype=torch.int32, device=device)
        kept_lengths = torch.empty(requests, dtype=torch.int32, device=device)
        bitmaps = torch.empty((requests, -(-rows // (32 * block))), dtype=torch.int32, device=device)
        p_q32 = torch.full((requests,), round(p * 2**32), dtype=torch.int64, device=device)
        s = Selection(
            size=ctypes.sizeof(Selection), dtype=BF16, requests=requests, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            max_rows=rows, block=block, sink=sink, last_q=last_q, scale=1 / math.sqrt(head_dim), queries=queries.data_ptr(),
            query_request_stride=queries.stride(0), query_row_stride=queries.stride(1), query_head_stride=queries.stride(2),
            keys=Kv(
                data=keys.data_ptr(), page_stride=keys.stride(0), row_stride=keys.stride(1), head_stride=keys.stride(2),
                page_count=requests,
            ),
            lengths=lengths.data_ptr(), p_q32=p_q32.data_ptr(), bitmaps=bitmaps.data_ptr(), kept=kept.data_ptr(),
            kept_lengths=kept_lengths.data_ptr(),
        )  # fmt: skip
        size = c_size_t()
        self.check(self.lib.up_selection_workspace(CUDA, ctypes.byref(s), ctypes.byref(size)))
        workspace = torch.empty(size.value, dtype=torch.uint8, device=device)
        stream = torch.cuda.current_stream().cuda_stream
        self.check(
            self.lib.up_select(CUDA, ctypes.byref(s), c_void_p(workspace.data_ptr()), size, c_void_p(stream))
        )
        return kept, kept_lengths


def main():
    up = UniPrefill(sys.argv[1] if len(sys.argv) > 1 else "libuniprefill.so")
    torch.manual_seed(0)
    requests, rows, heads, kv_heads, head_dim = 2, 8192, 32, 8, 128
    queries = torch.randn(requests, 128, heads, head_dim, dtype=torch.bfloat16, device="cuda")
    keys = torch.randn(requests, rows, kv_heads, head_dim, dtype=torch.bfloat16, device="cuda")
    keys[:, 3000:3200] += 3 * queries.mean((1, 2))[:, None, None] * 8  # what the last queries look for
    lengths = torch.tensor([rows, 5000], dtype=torch.int32, device="cuda")
    kept, kept_lengths = up.select(queries, keys, lengths, p=0.5)
    good = True
    for b, n in enumerate(lengths.tolist()):
        mine = kept[b, : kept_lengths[b]].tolist()
        expected = in_torch(queries[b], keys[b, :n], 0.5)
        shared = len(set(mine) & set(expected)) / len(set(mine) | set(expected))
        good = good and shared > 0.99 and mine == sorted(mine)
        print(f"request {b}: {len(mine)} of {n} rows kept; {shared:.2%} in common with torch in double precision")
    raise SystemExit(0 if good else 1)


def in_torch(q, k, p, block=64, sink=128):
    n, last_q, group = k.shape[0], q.shape[0], q.shape[1] // k.shape[1]
    scores = torch.einsum("qhd,khd->hqk", q.double(), k.double().repeat_interleave(group, 1)) / math.sqrt(q.shape[2])
    hidden = torch.arange(n, device=q.device)[None] > torch.arange(n - last_q, n, device=q.device)[:, None]
    mass = scores.masked_fill(hidden, -math.inf).softmax(-1).sum((0, 1))
    mass = torch.nn.functional.pad(mass, (0, -n % block)).reshape(-1, block).sum(-1).tolist()
    forced = set(range(sink)) | set(range(n - last_q, n))
    free = [b for b in range(len(mass)) if not set(range(b * block, min((b + 1) * block, n))) <= forced]
    rows, before, total = set(forced), 0.0, sum(mass[b] for b in free)
    for b in sorted(free, key=lambda b: (-mass[b], -b)):
        if before <= p * total:
            rows |= set(range(b * block, min((b + 1) * block, n)))
        before += mass[b]
    return sorted(rows)


if __name__ == "__main__":
    main()
