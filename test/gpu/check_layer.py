"""Gather, norm, rotary embedding, activation and embedding against double precision."""

import torch

import backend as up
from check_run import LIMIT, POISON, CheckRun
from tensors import Cache, int32, relative_error


class LayerChecks(CheckRun):
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

    def rope(self, rows, heads, kv_heads, head_dim, rotary, dtype, page_size, normed=False, gated=False):
        """`normed`: heads are normalised first; `gated`: a gate lies beside every query head."""
        limit, requests, capacity = 500, 3, 200
        angles = torch.rand(limit, rotary // 2, generator=self.generator, device="cuda", dtype=torch.float64) * 6.3
        cos, sin = angles.cos().float(), angles.sin().float()
        wide = 2 if gated else 1
        projected = self.normal(rows, (wide * heads + 2 * kv_heads) * head_dim, dtype=dtype, scale=2)
        stride = projected.shape[1]
        keys = projected[:, wide * heads * head_dim :]
        queries = projected[:, : wide * heads * head_dim].reshape(rows, heads, wide * head_dim)[..., :head_dim]
        qkv = torch.cat([queries, keys.reshape(rows, 2 * kv_heads, head_dim)], 1)
        norms = [1 + self.normal(head_dim, dtype=dtype, scale=0.2) if normed else None for _ in range(2)]
        offset = self.random.choice([0.0, 1.0])
        positions = torch.randint(0, limit, (rows,), dtype=torch.int32, device="cuda", generator=self.generator)
        places = self.random.sample([(b, r) for b in range(requests) for r in range(capacity)], rows)
        request, row = int32([b for b, _ in places]), int32([r if i % 5 else -1 for i, (_, r) in enumerate(places)])
        caches = [Cache([capacity] * requests, capacity, kv_heads, head_dim, dtype, page_size, self.generator) for _ in range(2)]
        before = [c.data.clone() for c in caches]
        out = torch.full((rows, heads, head_dim), POISON, dtype=dtype, device="cuda")
        p = up.RopeWrite(
            dtype=up.DTYPES[dtype], rows=rows, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=rotary,
            positions_limit=limit, requests=requests, max_key_rows=capacity, cosines=cos, sines=sin, positions=positions,
            kv_requests=request, kv_rows=row, queries=projected, query_row_stride=stride, keys=keys, key_row_stride=stride,
            values=keys[:, kv_heads * head_dim :], value_row_stride=stride, query_output=out, query_output_row_stride=heads * head_dim,
            key_cache=caches[0].kv, value_cache=caches[1].kv, query_head_stride=wide * head_dim if gated else 0,
            query_norm=norms[0], key_norm=norms[1], norm_eps=1e-6, norm_weight_offset=offset,
        )
        self.backend.rotate_and_write(p)
        x = qkv.double()
        if normed:
            inverse = (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
            x[:, :heads] *= inverse[:, :heads] * (offset + norms[0].double())
            x[:, heads : heads + kv_heads] *= inverse[:, heads : heads + kv_heads] * (offset + norms[1].double())
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
                place = cache.places[b]
                if page_size:
                    expected[int(cache.pages[place, r // page_size]), :, r % page_size] = content[i]
                else:
                    expected[place, r] = content[i]
            error = max(error, relative_error(cache.data.nan_to_num(5.0), expected.nan_to_num(5.0)))
        detail = f"{rows} rows heads {heads}/{kv_heads} d {head_dim} rotary {rotary} {dtype} page {page_size} normed {normed} gated {gated}"
        self.report("rope", detail, error, LIMIT[dtype] / 2)

    def post_norm(self, rows, width, dtype, offset, gathered, next_norm, count=None):
        source_rows = rows + 5
        y, residual = self.normal(rows, width, dtype=dtype, scale=3), self.normal(source_rows, width, dtype=dtype)
        weight, next_weight = self.normal(width, dtype=dtype), self.normal(width, dtype=dtype)
        indices = torch.randint(0, source_rows, (rows,), dtype=torch.int32, device="cuda", generator=self.generator)
        before = residual.clone()
        total = torch.full((rows, width), POISON, dtype=dtype, device="cuda") if gathered else residual
        out = torch.full((rows, width), POISON, dtype=dtype, device="cuda")
        count_t = int32([count]) if count is not None else None
        p = up.PostNorm(
            dtype=up.DTYPES[dtype], rows=rows, width=width, source_rows=source_rows, eps=1e-5, weight_offset=offset,
            next_eps=1e-6, next_weight_offset=1 - offset, input=y, input_stride=width, weight=weight, residual=residual,
            residual_stride=width, indices=indices if gathered else None, sum=total, sum_stride=width,
            next_weight=next_weight if next_norm else None, output=out, output_stride=width, count=count_t,
        )
        self.backend.add_normed(p)
        n = rows if count is None else count

        def norm(x, eps, offset, w):
            return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * (offset + w.double())

        chosen = (before[indices.long()] if gathered else before[:rows]).double()
        expected = chosen + norm(y.double(), 1e-5, offset, weight)
        error = relative_error(total[:n], expected[:n])
        untouched = torch.equal(total[n:rows], torch.full_like(total[n:rows], POISON) if gathered else before[n:rows])
        if next_norm:
            error = max(error, relative_error(out[:n], norm(total[:n].double(), 1e-6, 1 - offset, next_weight)))
        untouched = untouched and bool((out[n if next_norm else 0 :] == POISON).all())
        detail = f"{rows} × {width} {dtype} offset {offset} gather {gathered} next {next_norm} count {count}"
        self.report("post norm", detail, error if untouched else float("inf"), LIMIT[dtype] / 2)

    def output_gate(self, rows, heads, head_dim, dtype):
        projected = self.normal(rows, heads, 2 * head_dim, dtype=dtype, scale=2)
        attended = self.normal(rows, heads, head_dim, dtype=dtype)
        expected = attended.double() * torch.sigmoid(projected[..., head_dim:].double())
        p = up.OutputGate(
            dtype=up.DTYPES[dtype], rows=rows, heads=heads, head_dim=head_dim, gate=projected[..., head_dim:],
            gate_row_stride=2 * heads * head_dim, gate_head_stride=2 * head_dim, attended=attended,
            attended_row_stride=heads * head_dim, attended_head_stride=head_dim,
        )
        self.backend.apply_gate(p)
        self.report("gate", f"{rows} rows heads {heads} d {head_dim} {dtype}", relative_error(attended, expected), LIMIT[dtype] / 2)

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
        last = self.random.choice([None, int32([self.random.randint(-5, vocab + 5) for _ in range(3)])])
        if last is not None:
            tokens[::3] = -1 - torch.arange(len(tokens[::3]), dtype=torch.int32, device="cuda")
        p = up.Embedding(
            dtype=up.DTYPES[dtype], rows=rows, width=width, vocab_size=vocab, scale=scale, tokens=tokens, table=table,
            table_stride=width, output=out, output_stride=width, last_tokens=last, slots=3,
        )
        self.backend.embed(p)
        if last is not None:
            tokens = torch.where(tokens < 0, last[(-1 - tokens).clamp(0, 2).long()], tokens)
        expected = table[tokens.long().clamp(0, vocab - 1)].double() * (scale or 1.0)
        self.report("embed", f"{rows} × {width} of {vocab} {dtype}", relative_error(out, expected), LIMIT[dtype] / 2)
