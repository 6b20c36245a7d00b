"""Every operator against double precision, on fresh random inputs, outputs poisoned. Prints one line a case.

usage: check.py LIBRARY [--seed N] [--quick]
"""

import argparse
import random
import time

import numpy as np
import torch

import backend as up
import reference
from tensors import Cache, int32, relative_error

LIMIT = {torch.bfloat16: 8e-3, torch.float16: 1.5e-3}
POISON = -12345.0


class Checks:
    def __init__(self, backend, seed):
        self.backend = backend
        self.random = random.Random(seed)
        self.generator = torch.Generator(device="cuda").manual_seed(seed)
        self.failures = 0
        self.cases = 0

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=self.generator, device="cuda") * scale).to(dtype)

    def report(self, name, detail, error, limit):
        ok = error <= limit
        self.cases += 1
        self.failures += not ok
        if not ok or self.cases % 10 == 0:
            print(f"{'ok  ' if ok else 'FAIL'} {name:10} {error:9.2e} ≤ {limit:.0e}  {detail}", flush=True)

    # ---- attention ----

    def prefill(self, lengths, query_rows, heads, kv_heads, head_dim, dtype, page_size, kind, soft_cap=0.0, slack=0):
        """Request b has lengths[b] keys and query_rows[b] queries, whose intervals are of the kind causal, subset or window."""
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
        self.backend.attend_prefill(p)
        expected = torch.full(out.shape, POISON, dtype=torch.float64, device="cuda")
        for b in range(len(lengths)):
            rows = slice(starts[b], starts[b + 1])
            if query_rows[b]:
                expected[rows] = reference.attention(
                    q[rows], keys.rows[b], values.rows[b], int32(lo[rows]), int32(hi[rows]), scale, soft_cap
                )
        error = max(relative_error(out[:total], expected[:total]), 0.0 if bool((out[total:] == POISON).all()) else float("inf"))
        detail = f"{kind} lengths {lengths} queries {query_rows} heads {heads}/{kv_heads} d {head_dim} {dtype} page {page_size} cap {soft_cap}"
        self.report("prefill", detail, error, LIMIT[dtype])

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

    # ---- selection ----

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
            blocks_kept, rows_kept, whole = reference.cut(mass[:own_blocks], n, 64, sink, last_q, p_q32[b], rule == 0)
            if b in broken:
                blocks_kept, rows_kept = set(range(own_blocks)), list(range(n))
            count = int(kept_lengths[b])
            row = kept[b].tolist()
            same = (
                count == len(rows_kept)
                and row[:count] == rows_kept
                and all(x == -7 for x in row[count:])
                and got_blocks | set(whole) == blocks_kept | set(whole)
                and not stray
                and all(m == 0 for m in mass[own_blocks:])
            )
            self.report("cut", f"request {b}: kept {count}, expected {len(rows_kept)}; " + detail, 0.0 if same else float("inf"), 0)

    # ---- the rest of a layer ----

    def gather(self, rows, source_rows, row_bytes, count):
        source = torch.randint(0, 256, (source_rows, row_bytes + 32), dtype=torch.uint8, device="cuda", generator=self.generator)
        target = torch.full((rows, row_bytes + 16), 9, dtype=torch.uint8, device="cuda")
        indices = torch.randint(-3, source_rows + 3, (rows,), dtype=torch.int32, device="cuda", generator=self.generator)
        count_t = int32([count])
        p = up.Gather(
            max_rows=rows, source_rows=source_rows, row_bytes=row_bytes, source_stride_bytes=row_bytes + 32,
            target_stride_bytes=row_bytes + 16, source=source, indices=indices, count=count_t, target=target,
        )
        self.backend.gather_rows(p)
        n = min(max(count, 0), rows)
        good = torch.equal(target[:n, :row_bytes], source[indices[:n].long().clamp(0, source_rows - 1), :row_bytes])
        good = good and bool((target[n:] == 9).all()) and bool((target[:, row_bytes:] == 9).all())
        self.report("gather", f"{rows} of {source_rows} × {row_bytes}, count {count}", 0.0 if good else float("inf"), 0)

    def norm(self, rows, width, dtype, offset, gathered, added, count=None):
        source_rows = rows + 7
        x = self.normal(source_rows, width, dtype=dtype, scale=3)
        residual = self.normal(rows, width, dtype=dtype) if added else None
        weight = self.normal(width, dtype=dtype)
        indices = torch.randint(0, source_rows, (rows,), dtype=torch.int32, device="cuda", generator=self.generator) if gathered else None
        total, out = (torch.full((rows, width), POISON, dtype=dtype, device="cuda") for _ in range(2))
        count_t = int32([count]) if count is not None else None
        p = up.RmsNorm(
            dtype=up.DTYPES[dtype], rows=rows, width=width, source_rows=source_rows, eps=1e-5, weight_offset=offset, input=x,
            input_stride=width, indices=indices, addend=residual, addend_stride=width, sum=total, sum_stride=width,
            weight=weight, output=out, output_stride=width, count=count_t,
        )
        self.backend.normalise(p)
        n = rows if count is None else count
        chosen = x[indices.long()] if gathered else x[:rows]
        expected = chosen if residual is None else (chosen.float() + residual.float()).to(dtype)
        exact = torch.equal(total[:n], expected[:n])
        e = expected.double()
        e = e / (e.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * (offset + weight.double())
        error = relative_error(out[:n], e[:n]) if exact and bool((out[n:] == POISON).all()) else float("inf")
        self.report("norm", f"{rows} × {width} {dtype} offset {offset} gather {gathered} add {added}", error, LIMIT[dtype] / 2)

    def rope(self, rows, heads, kv_heads, head_dim, rotary, dtype, page_size):
        limit, requests, capacity = 500, 3, 200
        angles = torch.rand(limit, rotary // 2, generator=self.generator, device="cuda", dtype=torch.float64) * 6.3
        cos, sin = angles.cos().float(), angles.sin().float()
        qkv = self.normal(rows, heads + 2 * kv_heads, head_dim, dtype=dtype)
        stride = (heads + 2 * kv_heads) * head_dim
        positions = torch.randint(0, limit, (rows,), dtype=torch.int32, device="cuda", generator=self.generator)
        places = self.random.sample([(b, r) for b in range(requests) for r in range(capacity)], rows)
        request, row = int32([b for b, _ in places]), int32([r if i % 5 else -1 for i, (_, r) in enumerate(places)])
        caches = [Cache([capacity] * requests, capacity, kv_heads, head_dim, dtype, page_size, self.generator) for _ in range(2)]
        before = [c.data.clone() for c in caches]
        out = torch.full((rows, heads, head_dim), POISON, dtype=dtype, device="cuda")
        p = up.RopeWrite(
            dtype=up.DTYPES[dtype], rows=rows, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=rotary,
            positions_limit=limit, requests=requests, max_key_rows=capacity, cosines=cos, sines=sin, positions=positions,
            kv_requests=request, kv_rows=row, queries=qkv, query_row_stride=stride, keys=qkv[:, heads:], key_row_stride=stride,
            values=qkv[:, heads + kv_heads :], value_row_stride=stride, query_output=out, query_output_row_stride=heads * head_dim,
            key_cache=caches[0].kv, value_cache=caches[1].kv,
        )
        self.backend.rotate_and_write(p)
        x = qkv.double()
        c, s = cos.double()[positions.long()][:, None], sin.double()[positions.long()][:, None]
        low, high = x[..., : rotary // 2], x[..., rotary // 2 : rotary]
        turned = torch.cat([low * c - high * s, high * c + low * s, x[..., rotary:]], -1)
        error = relative_error(out, turned[:, :heads])
        for cache, old, content in zip(caches, before, (turned[:, heads : heads + kv_heads], x[:, heads + kv_heads :])):
            expected = old.double()
            for i, (b, _) in enumerate(places):
                r = int(row[i])
                if r < 0:
                    continue
                if page_size:
                    expected[int(cache.pages[b, r // page_size]), :, r % page_size] = content[i]
                else:
                    expected[b, r] = content[i]
            error = max(error, relative_error(cache.data.nan_to_num(5.0), expected.nan_to_num(5.0)))
        self.report("rope", f"{rows} rows heads {heads}/{kv_heads} d {head_dim} rotary {rotary} {dtype} page {page_size}", error, LIMIT[dtype] / 2)

    def activation(self, rows, inner, dtype, kind):
        x = self.normal(rows, 2 * inner, dtype=dtype, scale=3)
        out = torch.full((rows, inner), POISON, dtype=dtype, device="cuda")
        p = up.GatedActivation(
            dtype=up.DTYPES[dtype], activation=kind, rows=rows, inner=inner, input=x, input_stride=2 * inner, output=out, output_stride=inner
        )
        self.backend.activate(p)
        g, u = x.double().chunk(2, -1)
        f = torch.nn.functional
        expected = (f.silu(g) if kind == 0 else f.gelu(g, approximate="tanh")) * u
        self.report("activate", f"{rows} × {inner} {dtype} kind {kind}", relative_error(out, expected), LIMIT[dtype] / 2)

    def embedding(self, rows, width, vocab, dtype, scale):
        table = self.normal(vocab, width, dtype=dtype)
        tokens = torch.randint(-2, vocab + 2, (rows,), dtype=torch.int32, device="cuda", generator=self.generator)
        out = torch.full((rows, width), POISON, dtype=dtype, device="cuda")
        p = up.Embedding(
            dtype=up.DTYPES[dtype], rows=rows, width=width, vocab_size=vocab, scale=scale, tokens=tokens, table=table,
            table_stride=width, output=out, output_stride=width,
        )
        self.backend.embed(p)
        expected = table[tokens.long().clamp(0, vocab - 1)].double() * (scale or 1.0)
        self.report("embed", f"{rows} × {width} of {vocab} {dtype}", relative_error(out, expected), LIMIT[dtype] / 2)

    def sampler(self, rows, vocab, dtype, count):
        logits = self.normal(rows, vocab, dtype=dtype, scale=3)
        logits[:, ::17] = float("-inf")
        broken = rows > 4
        if broken:
            logits[1, 5] = float("nan")
            logits[2] = float("-inf")
        slots = 3
        parameters = np.zeros(rows, dtype=up.SAMPLE_ROW)
        for i in range(rows):
            r = self.random
            parameters[i] = (
                r.getrandbits(63), r.randint(0, 999), r.choice([0, 0.7, 1.3]), r.choice([1, 0.9, 0.5]), r.choice([0, 0.05]),
                r.choice([0, 0.4]), r.choice([0, 0.3]), r.choice([1, 1.3]), r.choice([0, 1, 40]), r.choice([-1, 0, 1, 2]),
            )
        words = -(-vocab // 32)
        prompt = torch.randint(-(2**31), 2**31 - 1, (slots, words), dtype=torch.int32, device="cuda", generator=self.generator)
        counts = torch.randint(-8, 4, (slots, vocab), dtype=torch.int32, device="cuda", generator=self.generator).clamp(min=0)
        device_parameters = torch.from_numpy(parameters.view(np.uint8)).cuda()
        tokens, bad = int32([-9] * rows), int32([-9] * rows)
        logprobs = torch.full((rows,), POISON, device="cuda")
        top_tokens = torch.full((rows, count), -9, dtype=torch.int32, device="cuda")
        top_logprobs = torch.full((rows, count), POISON, device="cuda")
        p = up.Sampler(
            dtype=up.DTYPES[dtype], rows=rows, vocab_size=vocab, slots=slots, logprob_count=count, logits=logits,
            logits_stride=vocab, parameters=device_parameters, prompt_tokens=prompt, output_counts=counts, tokens=tokens,
            logprobs=logprobs, top_tokens=top_tokens, top_logprobs=top_logprobs, non_finite=bad,
        )
        self.backend.sample(p)
        raw, bits, often = logits.double().cpu().numpy(), prompt.cpu().numpy().view(np.uint32), counts.cpu().numpy()
        prompted = (bits[:, np.arange(vocab) // 32] >> (np.arange(vocab) % 32).astype(np.uint32) & 1).astype(bool)
        for i in range(rows):
            r, scores = parameters[i], raw[i].copy()
            if broken and i in (1, 2):
                good = int(bad[i]) == 1 and int(tokens[i]) == 0
                self.report("sample", f"non-finite row {i}", 0.0 if good else float("inf"), 0)
                continue
            if r["slot"] >= 0:
                seen, n = prompted[r["slot"]], often[r["slot"]]
                rep = float(r["repetition_penalty"])
                scores = np.where(seen | (n > 0), np.where(scores > 0, scores / rep, scores * rep), scores)
                scores = scores - float(r["frequency_penalty"]) * n - float(r["presence_penalty"]) * (n > 0)
            probabilities = np.exp(scores - scores.max())
            log_shares = scores - scores.max() - np.log(probabilities.sum())
            token = int(tokens[i])
            allowed = draws(scores, r)
            order = np.lexsort((np.arange(vocab), -scores))[:count]
            near = np.abs(top_logprobs[i].cpu().numpy() - log_shares[order]).max() if count else 0.0
            good = int(bad[i]) == 0 and token in allowed
            error = max(near, abs(float(logprobs[i]) - log_shares[token])) if good else float("inf")
            self.report("sample", f"row {i} of {rows} × {vocab} {dtype}: token {token}, expected {allowed}, {r}", error, 2e-4)


    # ---- captured graphs ----

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
                _, rows, _ = reference.cut(mass[: -(-n // 64)], n, 64, 128, last_q, p_q32, True)
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


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def draws(scores, r):
    """The token that double precision draws, and those it would draw if rounding moved the target or a cut a little."""
    best = int(scores.argmax())
    temperature = float(r["temperature"])
    if temperature == 0:
        return {best}
    bits = mix((mix((int(r["seed"]) + 0x9E3779B97F4A7C15) % 2**64) + (int(r["index"]) + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11
    found = set()
    for nudge in (0, -2e-5, 2e-5):
        weights = np.exp((scores - scores.max()) / temperature)
        order = np.lexsort((np.arange(len(scores)), -scores))
        order = order[weights[order] > 0]
        if r["top_k"] > 0:
            order = order[weights[order] >= weights[order[min(int(r["top_k"]), len(order)) - 1]]]
        order = order[weights[order] >= float(r["min_p"]) * (1 + nudge)]
        if r["top_p"] < 1:
            before = np.cumsum(weights[order]) - weights[order]
            # Equal weights stand or fall together.
            before = before[np.searchsorted(-weights[order], -weights[order], side="left")]
            order = order[(before < float(r["top_p"]) * weights[order].sum() + nudge) | (before == 0)]
        order.sort()
        through = np.cumsum(weights[order])
        for shift in (0, -2e-5, 2e-5):
            at = np.searchsorted(through, min(max(bits / 2**53 + shift, 0), 1 - 1e-9) * through[-1], side="right")
            found.add(int(order[min(at, len(order) - 1)]))
    return found


def shapes(c, quick):
    bf16, f16 = torch.bfloat16, torch.float16
    r = c.random
    for d in (64, 128, 256):
        for page in (16, 32, 64, 128, 0):
            n = r.choice([1, 63, 64, 65, 127, 128, 129, 255, 257, 640, 1000])
            c.prefill([n], [n], 4, 2, d, r.choice([bf16, f16]), page, "causal", slack=r.choice([0, 70]))
            c.prefill([n + 300, 0, 77, 500], [r.randint(1, n), 0, 77, 1], 6, 2, d, bf16, page, "subset", slack=9)
            c.prefill([n + 400, 129], [n + 100, 128], 4, 1, d, f16, page, "window", soft_cap=r.choice([0, 20.0]))
            ends = [r.choice([1, 15, 16, 17, 64, 100, 1023, 1024, 1025, 3000]) for _ in range(4)] + [0]
            begins = [r.randint(0, e - 1) if r.random() < 0.5 and e else 0 for e in ends]
            c.decode([0] * 5, ends, 8, 2, d, bf16, page)
            c.decode(begins, ends, *r.choice([(4, 4), (14, 2), (40, 2), (6, 1)]), d, f16, page, soft_cap=r.choice([0, 30.0]))
            lengths = [r.choice([1, 64, 127, 128, 129, 256, 257, 300, 1000, 2049, 5000]) for _ in range(3)] + [0, 4000]
            c.select(lengths, *r.choice([(8, 2), (4, 4), (14, 2)]), d, r.choice([bf16, f16]), page, rule=r.choice([0, 1]),
                     soft_cap=r.choice([0, 30.0]), last_q=r.choice([128, 100, 32]), sink=r.choice([128, 0, 70]), broken=r.choice([(), (4,)]))
    for _ in range(4):
        c.gather(r.randint(1, 700), r.randint(1, 900), 16 * r.randint(1, 600), r.choice([0, 5, 300, 10000]))
        for dtype in (bf16, f16):
            c.norm(r.randint(1, 300), 8 * r.randint(1, 1030), dtype, r.choice([0.0, 1.0]), r.random() < 0.5, r.random() < 0.5)
            c.norm(64, r.choice([128, 4096, 16384]), dtype, 1.0, True, True, count=r.randint(0, 64))
            d = r.choice([64, 128, 256])
            c.rope(r.randint(1, 100), r.choice([4, 6]), 2, d, r.choice([d, d // 4]), dtype, r.choice([0, 16, 64, 128]))
            c.activation(r.randint(1, 200), 8 * r.randint(1, 2000), dtype, r.choice([0, 1]))
            c.embedding(r.randint(1, 200), 8 * r.randint(1, 500), 1000, dtype, r.choice([0.0, 33.5]))
        c.sampler(r.choice([3, 9]), r.choice([257, 4096, 32000, 128256]), r.choice([torch.float32, bf16]), r.choice([1, 5, 20]))
    c.graph(3000, 8, 2, 128)
    c.graph(1100, 4, 2, 64)
    if not quick:
        c.select([131072], 32, 8, 128, bf16, 64)
        c.select([8192] * 16, 32, 8, 128, bf16, 128, rule=1)
        c.prefill([5000], [5000], 8, 2, 128, bf16, 64, "causal")
        c.prefill([20000, 3], [1000, 3], 8, 2, 128, bf16, 64, "subset")
        c.decode([0] * 9, [20000] + [5000] * 8, 32, 8, 128, bf16, 64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    backend = up.Backend(arguments.library)
    print(f"{backend.name}, seed {arguments.seed}")
    checks = Checks(backend, arguments.seed)
    shapes(checks, arguments.quick)
    torch.cuda.synchronize()
    print(f"{checks.cases} cases, {checks.failures} failed")
    raise SystemExit(1 if checks.failures else 0)


if __name__ == "__main__":
    main()
