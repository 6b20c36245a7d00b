"""Prefill and decode attention against double precision."""

import torch

import backend as up
import reference
from check_run import LIMIT, POISON, CheckRun
from tensors import Cache, int32, relative_error


class AttentionChecks(CheckRun):
    def prefill(self, lengths, query_rows, heads, kv_heads, head_dim, dtype, page_size, kind, soft_cap=0.0, slack=0, density=None):
        """Request b has lengths[b] keys and query_rows[b] queries, whose intervals are of the kind causal, subset or window.

        With a density, sparse: so large a share of the blocks of 64 keys is seen by a block of 128 rows and a KV head.
        """
        r = self.random
        capacity = max(max(lengths), 1) + slack
        keys = Cache(lengths, capacity, kv_heads, head_dim, dtype, page_size, self.generator)
        values = Cache(lengths, capacity, kv_heads, head_dim, dtype, page_size, self.generator)
        scale = r.choice([head_dim**-0.5, 0.07])
        total = sum(query_rows)
        spare = r.choice([0, 5])
        q = self.normal(total + spare, heads, head_dim, dtype=dtype)
        out = torch.full_like(q, POISON)
        starts, lo, hi = [0], [], []
        for n, m in zip(lengths, query_rows):
            if kind == "causal":
                places = list(range(n - m, n))
            else:
                places = sorted(r.sample(range(n), m))
            window = r.randint(1, 300) if kind == "window" else n + 1
            lo += [max(0, at - window) for at in places]
            hi += places
            starts.append(starts[-1] + m)
        if kind == "window" and total > 3:
            hi[0] = lo[0] - 1  # sees nothing
        lo_t = int32(lo + [0] * spare) if kind == "window" else None
        hi_t = int32(hi + [0] * spare)
        starts_t = int32(starts)
        p = up.PrefillAttention(
            dtype=up.DTYPES[dtype], requests=len(lengths), max_query_rows=total + spare, max_key_rows=capacity, heads=heads,
            kv_heads=kv_heads, head_dim=head_dim, scale=scale, soft_cap=soft_cap, queries=q, query_row_stride=heads * head_dim,
            query_head_stride=head_dim, keys=keys.kv, values=values.kv, row_starts=starts_t, lo=lo_t, hi=hi_t, output=out,
            output_row_stride=heads * head_dim, output_head_stride=head_dim,
        )
        seen = [None] * len(lengths)
        if density is None:
            self.backend.attend_prefill(p)
        else:
            bits, place, seen = self.block_bits(lengths, query_rows, capacity, kv_heads, density)
            block_starts = int32(place)
            self.backend.attend_sparse(
                up.SparseAttention(attention=p, query_blocks=bits.shape[1], block_starts=block_starts, bitmaps=bits)
            )
        expected = torch.full(out.shape, POISON, dtype=torch.float64, device="cuda")
        for b in range(len(lengths)):
            rows = slice(starts[b], starts[b + 1])
            if query_rows[b]:
                expected[rows] = reference.attention(
                    q[rows], keys.rows[b], values.rows[b], int32(lo[rows]), int32(hi[rows]), scale, soft_cap, seen[b]
                )
        error = max(relative_error(out[:total], expected[:total]), 0.0 if bool((out[total:] == POISON).all()) else float("inf"))
        detail = f"{kind} lengths {lengths} queries {query_rows} heads {heads}/{kv_heads} d {head_dim} {dtype} page {page_size} cap {soft_cap}"
        self.report("prefill" if density is None else "sparse", f"{detail} density {density}", error, LIMIT[dtype])

    def block_bits(self, lengths, query_rows, capacity, kv_heads, density):
        """Random bitmaps, where each request's begin, and what they let through: [kv_heads, rows, keys] a request."""
        counts = [-(-m // 128) for m in query_rows]
        place = [sum(counts[:b]) + 3 * b for b in range(len(counts))]  # others' between them
        blocks = -(-capacity // 64)
        words = -(-blocks // 32)
        chosen = torch.rand(kv_heads, place[-1] + counts[-1], 32 * words, generator=self.generator, device="cuda") < density
        weights = 1 << torch.arange(32, device="cuda")
        bits = (chosen.reshape(*chosen.shape[:2], words, 32) * weights).sum(-1)
        bits = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).contiguous()
        seen = []
        for n, m, first in zip(lengths, query_rows, place):
            row, key = torch.arange(m, device="cuda") // 128 + first, torch.arange(n, device="cuda") // 64
            seen.append(chosen[:, row][:, :, key])
        return bits, place, seen

    def decode(self, begins, ends, heads, kv_heads, head_dim, dtype, page_size, soft_cap=0.0):
        requests = len(ends)
        capacity = max(max(ends), 1)
        lengths = [max(e, 0) for e in ends]
        keys = Cache(lengths, capacity, kv_heads, head_dim, dtype, page_size, self.generator)
        values = Cache(lengths, capacity, kv_heads, head_dim, dtype, page_size, self.generator)
        scale = head_dim**-0.5
        q = self.normal(requests, heads, head_dim, dtype=dtype)
        out = torch.full_like(q, POISON)
        begin_t = int32(begins) if any(begins) else None
        end_t = int32(ends)
        p = up.DecodeAttention(
            dtype=up.DTYPES[dtype], requests=requests, max_key_rows=capacity, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            scale=scale, soft_cap=soft_cap, queries=q, query_row_stride=heads * head_dim, query_head_stride=head_dim,
            keys=keys.kv, values=values.kv, begin=begin_t, end=end_t, output=out, output_row_stride=heads * head_dim,
            output_head_stride=head_dim,
        )
        self.backend.attend_decode(p)
        expected = torch.zeros(out.shape, dtype=torch.float64, device="cuda")
        for b in range(requests):
            if ends[b] > begins[b]:
                expected[b] = reference.attention(
                    q[b : b + 1], keys.rows[b], values.rows[b], int32([begins[b]]), int32([ends[b] - 1]), scale, soft_cap
                )[0]
        detail = f"{list(zip(begins, ends))} heads {heads}/{kv_heads} d {head_dim} {dtype} page {page_size} cap {soft_cap}"
        self.report("decode", detail, relative_error(out, expected), LIMIT[dtype])
