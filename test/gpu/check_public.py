"""libuniprefill's UP_CUDA against its UP_REFERENCE, through the public functions alone, on the same random inputs.

usage: check_public.py LIBUNIPREFILL [--seed N]
"""

import argparse
import ctypes
import random
import time

import torch

import backend as up
import reference
from tensors import Cache, int32, relative_error

REFERENCE, CUDA = 0, 1


class UpError(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int32)] + [(name, ctypes.c_char_p) for name in ("operation", "phase", "detail")]


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.up_last_error.restype = UpError
        self.check(self.lib.up_backend_available(CUDA))

    def check(self, status):
        if status != 0:
            error = self.lib.up_last_error()
            raise RuntimeError(f"status {status}, {error.operation}, {error.phase}: {error.detail}")

    def run(self, name, backend, p):
        """Calls up_NAME with the workspace that up_NAME's query asks for."""
        size = ctypes.c_size_t()
        self.check(getattr(self.lib, f"up_{up.WORKSPACES[name]}")(backend, ctypes.byref(p), ctypes.byref(size)))
        scratch = torch.empty(max(size.value, 16), dtype=torch.uint8, device="cuda")
        call = getattr(self.lib, f"up_{name}")
        self.check(call(backend, ctypes.byref(p), ctypes.c_void_p(scratch.data_ptr()), size, ctypes.c_void_p(0)))
        torch.cuda.synchronize()


def on(backend, tensor):
    return tensor.cpu() if backend == REFERENCE else tensor


def cache_on(backend, cache):
    """The cache's up_kv for a backend, and what keeps its memory alive."""
    data, pages = on(backend, cache.data), on(backend, cache.pages) if cache.page_size else None
    table_rows = None if cache.table_rows is None else on(backend, cache.table_rows)
    kv = up.Kv.from_buffer_copy(cache.kv)
    kv.data, kv.pages, kv.table_rows = data.data_ptr(), up.address(pages), up.address(table_rows)
    return kv, (data, pages, table_rows)


def attention(library, r, generator, decode):
    head_dim, kv_heads = r.choice([64, 128]), r.choice([1, 2])
    heads, lengths = kv_heads * r.choice([1, 3]), [r.randint(1, 200) for _ in range(2)]
    page = r.choice([0, 16, 64])
    caches = [Cache(lengths, max(lengths), kv_heads, head_dim, torch.bfloat16, page, generator) for _ in range(2)]
    rows = len(lengths) if decode else sum(lengths)
    q = torch.randn(rows, heads, head_dim, generator=generator, device="cuda").to(torch.bfloat16)
    common = dict(
        dtype=up.BF16, requests=2, max_key_rows=max(lengths), heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=0.1,
        soft_cap=r.choice([0.0, 20.0]), query_row_stride=heads * head_dim, query_head_stride=head_dim,
        output_row_stride=heads * head_dim, output_head_stride=head_dim,
    )  # fmt: skip
    outputs = []
    for backend in (REFERENCE, CUDA):
        held = [cache_on(backend, c) for c in caches]
        queries, out = on(backend, q), on(backend, torch.full_like(q, 9.0))
        tensors = dict(queries=queries, keys=held[0][0], values=held[1][0], output=out)
        if decode:
            end = on(backend, int32(lengths))
            library.run("attend_decode", backend, up.DecodeAttention(**common, **tensors, end=end))
        else:
            starts = on(backend, int32([0, lengths[0], rows]))
            hi = on(backend, torch.cat([torch.arange(n, dtype=torch.int32, device="cuda") for n in lengths]))
            p = up.PrefillAttention(**common, **tensors, max_query_rows=rows, row_starts=starts, hi=hi)
            library.run("attend_prefill", backend, p)
        outputs.append(out.cpu())
    return relative_error(outputs[1], outputs[0]), 8e-3, f"lengths {lengths}, heads {heads}/{kv_heads}, d {head_dim}, page {page}"


def selection(library, r, generator, _):
    head_dim, kv_heads = r.choice([64, 128]), 2
    heads, lengths = kv_heads * r.choice([1, 2]), [r.randint(1, 200), r.randint(300, 700)]
    page, rows = r.choice([0, 32, 128]), max(lengths)
    cache = Cache(lengths, rows, kv_heads, head_dim, torch.bfloat16, page, generator)
    q = torch.randn(2, 128, heads, head_dim, generator=generator, device="cuda").to(torch.bfloat16)
    blocks, p_q32, rule, sink = -(-rows // 64), round(0.7 * 2**32), r.choice([0, 1]), r.choice([0, 128])
    found = []
    for backend in (REFERENCE, CUDA):
        kv, held = cache_on(backend, cache)
        queries = on(backend, q)
        masses = on(backend, torch.full((2, blocks), 7, dtype=torch.int64, device="cuda"))
        bitmaps, kept = on(backend, int32([[-1]] * 2)), on(backend, torch.full((2, rows), -1, dtype=torch.int32, device="cuda"))
        counts, fallbacks, lengths_t = (on(backend, int32(x)) for x in ([-1, -1], [-1, -1], lengths))
        p_t = on(backend, torch.tensor([p_q32, p_q32], device="cuda"))
        p = up.Selection(
            dtype=up.BF16, requests=2, heads=heads, kv_heads=kv_heads, head_dim=head_dim, max_rows=rows, block=64, sink=sink,
            last_q=128, rule=rule, scale=0.1, queries=queries, query_request_stride=128 * heads * head_dim,
            query_row_stride=heads * head_dim, query_head_stride=head_dim, keys=kv, lengths=lengths_t, p_q32=p_t, masses=masses,
            bitmaps=bitmaps, kept=kept, kept_lengths=counts, fallbacks=fallbacks,
        )  # fmt: skip
        library.run("select", backend, p)
        found.append([t.cpu() for t in (masses, bitmaps, kept, counts, fallbacks)])
    error = relative_error(found[1][0], found[0][0])
    # Each side's rows follow from its own masses; where the masses cut alike, everything is equal.
    for masses, _, kept, counts, _ in found:
        for b, n in enumerate(lengths):
            _, expected = reference.cut(masses[b, : -(-n // 64)].tolist(), n, 64, sink, 128, p_q32, rule == 0)
            if kept[b, : counts[b]].tolist() != expected:
                error = float("inf")
    if torch.equal(found[0][3], found[1][3]) and torch.equal(found[0][2], found[1][2]):
        if not all(torch.equal(x, y) for x, y in zip(found[0][1:], found[1][1:])):
            error = float("inf")
    return error, 1e-4, f"lengths {lengths}, heads {heads}/{kv_heads}, d {head_dim}, page {page}, rule {rule}, sink {sink}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lib", metavar="library")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    library, r = Library(arguments.lib), random.Random(arguments.seed)
    generator = torch.Generator(device="cuda").manual_seed(arguments.seed)
    failures = 0
    for name, check, decode in (("prefill", attention, False), ("decode", attention, True), ("select", selection, False)):
        for _ in range(6):
            error, limit, detail = check(library, r, generator, decode)
            failures += not error <= limit
            print(f"{'ok  ' if error <= limit else 'FAIL'} {name:8} {error:9.2e} ≤ {limit:.0e}  {detail}")
    print(f"18 cases from seed {arguments.seed}, {failures} failed")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
