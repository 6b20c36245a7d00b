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

    def moe(self, rows, hidden=2048, inner=512, experts=256, top_k=8):
        if not self.wants("moe"):
            return
        x, logits = self.normal(rows, hidden), self.normal(rows, experts)
        gate_up = torch.empty(experts, 2 * inner, hidden, dtype=BF16, device="cuda").normal_(generator=self.generator) * hidden**-0.5
        down = torch.empty(experts, hidden, inner, dtype=BF16, device="cuda").normal_(generator=self.generator) * inner**-0.5
        chosen = torch.empty(rows, top_k, dtype=torch.int32, device="cuda")
        weights, out = torch.empty(rows, top_k, device="cuda"), torch.empty(rows, hidden, dtype=BF16, device="cuda")
        router = up.MoeRouter(
            dtype=up.BF16, rows=rows, experts=experts, top_k=top_k, renormalise=1, logits=logits, logits_stride=experts,
            chosen=chosen, weights=weights,
        )
        (ms,) = self.median_ms([lambda i: self.backend.route(router)], 20)
        self.row("router", f"{rows} × {experts}, top {top_k}", ms, 2 * rows * experts / self.copy_bytes_per_ms)
        p = up.Moe(
            dtype=up.BF16, activation=0, rows=rows, hidden=hidden, inner=inner, experts=experts, top_k=top_k, input=x,
            input_stride=hidden, chosen=chosen, weights=weights, gate_up=gate_up, down=down, output=out, output_stride=hidden,
        )
        scratch = self.backend.run_experts(p)
        (ms,) = self.median_ms([lambda i: self.backend.run_experts(p)], 20)
        choices, used = rows * top_k, int(torch.unique(chosen).numel())
        flop = 6 * choices * hidden * inner
        moved = used * 6 * hidden * inner + 2 * choices * (2 * inner + 2 * hidden) + 4 * rows * hidden
        floor = max(flop / self.flop_per_ms, moved / self.copy_bytes_per_ms)
        self.row("experts", f"{rows} rows, top {top_k} of {experts}, {hidden} × {inner}", ms, floor, scratch=scratch)
        print(f"{'':20}{flop / ms / 1e9:.0f} TFLOP/s, {flop / ms / self.flop_per_ms:.0%} of the dense rate; {moved / ms / 1e9:.2f} TB/s")

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
