"""Selection: masses against double precision, the cut exactly, and both inside a captured graph."""

import torch

import backend as up
import reference
from check_run import LIMIT, POISON, CheckRun
from tensors import Cache, int32, relative_error


class SelectionChecks(CheckRun):
    def select(self, lengths, heads, kv_heads, head_dim, dtype, page_size, rule=0, soft_cap=0.0, last_q=128, sink=128, broken=()):
        r = self.random
        requests, capacity = len(lengths), max(max(lengths), 1)
        keys = Cache(lengths, capacity, kv_heads, head_dim, dtype, page_size, self.generator)
        scale = r.choice([head_dim**-0.5, 0.2])
        q = self.normal(requests, last_q, heads, head_dim, dtype=dtype)
        for b in range(requests):
            q[b, min(last_q, lengths[b]) :] = float("nan")
        for b in broken:
            q[b, 0, heads - 1, 3] = float("-inf")
        blocks = -(-capacity // 64)
        words = -(-blocks // 32)
        p_q32 = [r.choice([round(r.random() * 2**32), 2**32, round(0.9 * 2**32)]) for _ in lengths]
        p_t = torch.tensor(p_q32, dtype=torch.int64, device="cuda")
        masses = torch.full((requests, blocks), 77, dtype=torch.int64, device="cuda")
        bitmaps = torch.full((requests, words), -1, dtype=torch.int32, device="cuda")
        kept = torch.full((requests, capacity), -7, dtype=torch.int32, device="cuda")
        kept_lengths, fallbacks = int32([-7] * requests), int32([-7] * requests)
        lengths_t = int32(lengths)
        p = up.Selection(
            dtype=up.DTYPES[dtype], requests=requests, heads=heads, kv_heads=kv_heads, head_dim=head_dim, max_rows=capacity,
            block=64, sink=sink, last_q=last_q, rule=rule, scale=scale, soft_cap=soft_cap, queries=q,
            query_request_stride=last_q * heads * head_dim, query_row_stride=heads * head_dim, query_head_stride=head_dim,
            keys=keys.kv, lengths=lengths_t, p_q32=p_t, masses=masses, bitmaps=bitmaps, kept=kept, kept_lengths=kept_lengths,
            fallbacks=fallbacks,
        )
        self.backend.select(p)
        detail = f"{lengths} heads {heads}/{kv_heads} d {head_dim} {dtype} page {page_size} rule {rule} cap {soft_cap} q {last_q} sink {sink}"
        for b, n in enumerate(lengths):
            own_blocks = -(-n // 64)
            mass = masses[b].tolist()
            flat = bool(fallbacks[b])
            if flat != (b in broken):
                self.report("select", f"fallback {flat}, " + detail, float("inf"), 0)
            if n and b not in broken:
                expected = reference.block_masses(q[b, : min(n, last_q)], keys.rows[b], 64, scale, soft_cap)
                got = masses[b, :own_blocks].double() / 2**40
                self.report("mass", detail, relative_error(got, expected), 1e-4)
            bits = bitmaps[b].tolist()
            got_blocks = {i for i in range(own_blocks) if bits[i // 32] >> (i % 32) & 1}
            stray = any(bits[i // 32] >> (i % 32) & 1 for i in range(own_blocks, words * 32))
            blocks_kept, rows_kept = reference.cut(mass[:own_blocks], n, 64, sink, last_q, p_q32[b], rule == 0)
            if b in broken:
                blocks_kept, rows_kept = set(range(own_blocks)), list(range(n))
            count = int(kept_lengths[b])
            row = kept[b].tolist()
            same = (
                count == len(rows_kept)
                and row[:count] == rows_kept
                and all(x == -7 for x in row[count:])
                and got_blocks == blocks_kept
                and not stray
                and all(m == 0 for m in mass[own_blocks:])
            )
            self.report("cut", f"request {b}: kept {count}, expected {len(rows_kept)}; " + detail, 0.0 if same else float("inf"), 0)

    def graph(self, capacity, heads, kv_heads, head_dim):
        """Select, gather and decode in one captured graph whose lengths change on the device between replays."""
        dtype, requests, last_q = torch.bfloat16, 3, 128
        keys = Cache([capacity] * requests, capacity, kv_heads, head_dim, dtype, 64, self.generator)
        values = Cache([capacity] * requests, capacity, kv_heads, head_dim, dtype, 64, self.generator)
        q = self.normal(requests, last_q, heads, head_dim, dtype=dtype)
        blocks = -(-capacity // 64)
        words = -(-blocks // 32)
        masses = torch.zeros((requests, blocks), dtype=torch.int64, device="cuda")
        bitmaps = torch.zeros((requests, words), dtype=torch.int32, device="cuda")
        kept = torch.zeros((requests, capacity), dtype=torch.int32, device="cuda")
        kept_lengths, lengths = int32([0] * requests), int32([capacity] * requests)
        p_q32 = round(0.8 * 2**32)
        p_t = torch.tensor([p_q32] * requests, device="cuda")
        scale = head_dim**-0.5
        selection = up.Selection(
            dtype=up.BF16, requests=requests, heads=heads, kv_heads=kv_heads, head_dim=head_dim, max_rows=capacity, block=64,
            sink=128, last_q=last_q, rule=0, scale=scale, queries=q, query_request_stride=last_q * heads * head_dim,
            query_row_stride=heads * head_dim, query_head_stride=head_dim, keys=keys.kv, lengths=lengths, p_q32=p_t, masses=masses,
            bitmaps=bitmaps, kept=kept, kept_lengths=kept_lengths,
        )
        carry = self.normal(capacity, 256, dtype=dtype)
        gathered = torch.full((capacity, 256), POISON, dtype=dtype, device="cuda")
        gather = up.Gather(
            max_rows=capacity, source_rows=capacity, row_bytes=512, source_stride_bytes=512, target_stride_bytes=512, source=carry,
            indices=kept, count=kept_lengths, target=gathered,
        )
        decode_q = self.normal(requests, heads, head_dim, dtype=dtype)
        out = torch.full_like(decode_q, POISON)
        decode = up.DecodeAttention(
            dtype=up.BF16, requests=requests, max_key_rows=capacity, heads=heads, kv_heads=kv_heads, head_dim=head_dim, scale=scale,
            queries=decode_q, query_row_stride=heads * head_dim, query_head_stride=head_dim, keys=keys.kv, values=values.kv,
            end=kept_lengths, output=out, output_row_stride=heads * head_dim, output_head_stride=head_dim,
        )

        def step():
            self.backend.select(selection)
            self.backend.gather_rows(gather)
            self.backend.attend_decode(decode)

        step()
        torch.cuda.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            step()
        for trial in range(3):
            now = [self.random.randint(1, capacity) for _ in range(requests)]
            lengths.copy_(int32(now))
            for t in (out, gathered):
                t.fill_(POISON)
            captured.replay()
            torch.cuda.synchronize()
            for b, n in enumerate(now):
                mass = masses[b].tolist()
                _, rows = reference.cut(mass[: -(-n // 64)], n, 64, 128, last_q, p_q32, True)
                same = int(kept_lengths[b]) == len(rows) and kept[b, : len(rows)].tolist() == rows
                expected_mass = reference.block_masses(q[b, : min(n, last_q)], keys.rows[b][:n], 64, scale)
                error = relative_error(masses[b, : -(-n // 64)].double() / 2**40, expected_mass) if same else float("inf")
                self.report("graph", f"selection, replay {trial}, length {n}", error, 1e-4)
                k, v = keys.rows[b][: len(rows)], values.rows[b][: len(rows)]
                expected = reference.attention(decode_q[b : b + 1], k, v, int32([0]), int32([len(rows) - 1]), scale)[0]
                self.report("graph", f"decode, replay {trial}, {len(rows)} keys", relative_error(out[b], expected), LIMIT[dtype])
            n = int(kept_lengths[0])
            same = torch.equal(gathered[:n], carry[kept[0, :n].long()]) and bool((gathered[n:] == POISON).all())
            self.report("graph", f"gather, replay {trial}, {n} rows", 0.0 if same else float("inf"), 0)
