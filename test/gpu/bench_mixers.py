"""Times of Gated DeltaNet operators; a part of bench.py."""

import torch

import backend as up
from tensors import int32

BF16 = torch.bfloat16
SLOTS = 2  # sets of data that calls rotate over: together larger than the cache


class MixerBench:
    def delta_states(self, requests, size, dtype):
        data = torch.randn(requests, size, device="cuda", generator=self.generator).to(dtype) * 0.1
        own = int32(list(range(requests)))
        return up.States(data.data_ptr(), size, requests, 0, own.data_ptr(), own.data_ptr(), None, None, None), (data, own)

    def delta_gates(self, rows, heads):
        decay = -torch.rand(rows, heads, device="cuda", generator=self.generator) * 0.1
        return decay, torch.rand(rows, heads, device="cuda", generator=self.generator)

    def delta_prefill(self, requests, length, key_heads, value_heads, d=128):
        if not self.wants("delta prefill"):
            return
        rows, wide = requests * length, (2 * key_heads + value_heads) * d
        sets = []
        for _ in range(SLOTS):
            x = self.normal(rows, wide)
            decay, beta = self.delta_gates(rows, value_heads)
            states, held = self.delta_states(requests, value_heads * d * d, torch.float32)
            out, starts = torch.empty(rows, value_heads * d, dtype=BF16, device="cuda"), int32([length * b for b in range(requests + 1)])
            p = up.DeltaPrefill(
                dtype=up.BF16, requests=requests, max_rows=rows, key_heads=key_heads, value_heads=value_heads, key_dim=d,
                value_dim=d, normalise=1, norm_eps=1e-6, scale=d**-0.5, queries=x, query_row_stride=wide, keys=x[:, key_heads * d :],
                key_row_stride=wide, values=x[:, 2 * key_heads * d :], value_row_stride=wide, decay=decay, beta=beta,
                row_starts=starts, states=states, output=out, output_row_stride=value_heads * d,
            )
            sets.append((p, x, decay, beta, held, out, starts))
        scratch = self.backend.recur_prefill(sets[0][0])
        (ms,) = self.median_ms([lambda i: self.backend.recur_prefill(sets[i % SLOTS][0])], 20)
        chunks = -(-length // 64) * requests
        flop = chunks * (value_heads * 64 * d * (3 * d + 2 * 64) * 2 + key_heads * 2 * 64 * 64 * d * 2)
        moved = rows * (wide + value_heads * d) * 2
        floor = max(flop / self.flop_per_ms, moved / self.copy_bytes_per_ms)
        self.row("delta prefill", f"{requests} × {length}, {key_heads}/{value_heads} heads, d {d}", ms, floor, scratch=scratch)

    def delta_decode(self, requests, key_heads, value_heads, d=128):
        if not self.wants("delta decode"):
            return
        wide, sets = (2 * key_heads + value_heads) * d, []
        for _ in range(SLOTS):
            x = self.normal(requests, wide)
            decay, beta = self.delta_gates(requests, value_heads)
            states, held = self.delta_states(requests, value_heads * d * d, torch.float32)
            out = torch.empty(requests, value_heads * d, dtype=BF16, device="cuda")
            p = up.DeltaDecode(
                dtype=up.BF16, requests=requests, key_heads=key_heads, value_heads=value_heads, key_dim=d, value_dim=d, normalise=1,
                norm_eps=1e-6, scale=d**-0.5, queries=x, query_row_stride=wide, keys=x[:, key_heads * d :], key_row_stride=wide,
                values=x[:, 2 * key_heads * d :], value_row_stride=wide, decay=decay, beta=beta, states=states, output=out,
                output_row_stride=value_heads * d,
            )
            sets.append((p, x, decay, beta, held, out))
        (ms,) = self.median_ms([lambda i: self.backend.recur_decode(sets[i % SLOTS][0])], 40)
        moved = 2 * requests * value_heads * d * d * 4
        self.row("delta decode", f"{requests} requests, {key_heads}/{value_heads} heads, d {d}", ms, moved / self.copy_bytes_per_ms)

    def delta_rest(self, rows=32768, key_heads=16, value_heads=32, d=128, decoded=64):
        if not self.wants("delta rest"):
            return
        channels = (2 * key_heads + value_heads) * d
        wide = channels + value_heads * d + 2 * value_heads  # q|k|v|z|b|a
        for count, requests in ((rows, 1), (decoded, decoded)):
            x = self.normal(count, wide)
            weight = self.normal(channels, 4)
            states, held = self.delta_states(requests, 3 * channels, BF16)
            starts = int32([count // requests * b for b in range(requests + 1)])
            out = torch.empty(count, channels, dtype=BF16, device="cuda")
            a_log, dt_bias = torch.rand(value_heads, device="cuda"), torch.rand(value_heads, device="cuda")
            decay, beta = (torch.empty(count, value_heads, device="cuda") for _ in range(2))
            p = up.DeltaInput(
                dtype=up.BF16, requests=requests, max_rows=count, channels=channels, kernel=4, input=x, input_row_stride=wide,
                weight=weight, row_starts=starts, states=states, output=out, output_row_stride=channels, heads=value_heads,
                decay_input=x[:, wide - value_heads :], decay_input_stride=wide, beta_input=x[:, wide - 2 * value_heads :],
                beta_input_stride=wide, a_log=a_log, dt_bias=dt_bias, decay=decay, beta=beta,
            )
            (ms,) = self.median_ms([lambda i: self.backend.delta_prepare(p)], 20)
            self.row("convolution, gates", f"{count} rows of {requests}, {channels} channels", ms, 4 * count * channels / self.copy_bytes_per_ms)
            o, weight = self.normal(count, value_heads * d), self.normal(d)
            norm = up.GatedNorm(
                dtype=up.BF16, rows=count, heads=value_heads, head_dim=d, eps=1e-6, input=o, input_row_stride=value_heads * d,
                gate=x[:, channels:], gate_row_stride=wide, weight=weight, output=out, output_row_stride=channels,
            )
            (ms,) = self.median_ms([lambda i: self.backend.normalise_gated(norm)], 20)
            self.row("gated norm", f"{count} rows, {value_heads} × {d}", ms, 6 * count * value_heads * d / self.copy_bytes_per_ms)
