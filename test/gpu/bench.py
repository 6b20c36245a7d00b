"""Times every operator beside its floor and a peer, and writes rows of JSON.

usage: bench.py LIBRARY OUTPUT.json [--only PREFIX]

Ours and the peer alternate in one run, on random data; each figure is the median of device events. Where the data of one
call would fit in the cache, calls rotate over several sets of it.
"""

import argparse
import datetime
import json
import statistics
import subprocess

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import backend as up
from bench_mixers import MixerBench
from tensors import Cache, int32, relative_error

BF16 = torch.bfloat16


def median_ms(functions, repeats, warmups=2):
    """Medians of alternating calls of several functions; each is given the number of its call."""
    for i in range(warmups):
        for f in functions:
            f(i)
    torch.cuda.synchronize()
    events = [[] for _ in functions]
    for i in range(repeats):
        for times, f in zip(events, functions):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            f(i)
            end.record()
            times.append((begin, end))
    torch.cuda.synchronize()
    return [statistics.median(b.elapsed_time(e) for b, e in times) for times in events]


def smi(field):
    out = subprocess.run(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"], capture_output=True, text=True)
    return out.stdout.strip().splitlines()[0]


class Bench(MixerBench):
    median_ms = staticmethod(median_ms)

    def __init__(self, backend, only):
        self.backend, self.only, self.rows = backend, only, []
        self.generator = torch.Generator(device="cuda").manual_seed(7)
        self.versions = {
            "backend": backend.name,
            "torch": torch.__version__,
            "cudnn": torch.backends.cudnn.version(),
            "driver": smi("driver_version"),
        }
        a, b = (torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_() for _ in range(2))
        (ms,) = median_ms([lambda i: a.copy_(b)], 10)
        self.copy_bytes_per_ms = 2 * a.numel() / ms
        m = [torch.randn(8192, 8192, device="cuda", dtype=BF16) for _ in range(2)]
        (ms,) = median_ms([lambda i: m[0] @ m[1]], 10)
        self.flop_per_ms = 2 * 8192**3 / ms
        self.versions["copyTbs"] = round(self.copy_bytes_per_ms / 1e9, 2)
        self.versions["gemmTflops"] = round(self.flop_per_ms / 1e9)
        print(f"copy {self.copy_bytes_per_ms / 1e9:.2f} TB/s, bf16 GEMM {self.flop_per_ms / 1e9:.0f} TFLOP/s", flush=True)

    def wants(self, name):
        return not self.only or any(name.startswith(prefix) for prefix in self.only)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, device="cuda", dtype=BF16)

    def row(self, operator, case, ms, floor_ms, peer="", peer_ms=None, scratch=0):
        self.rows.append(
            {
                "operator": operator,
                "case": case,
                "medianMs": round(ms, 5),
                "floorMs": round(floor_ms, 5),
                "peer": peer,
                "peerMs": None if peer_ms is None else round(peer_ms, 5),
                "scratchBytes": scratch,
                "device": torch.cuda.get_device_name(),
                "versions": self.versions,
                "smClockMHz": int(smi("clocks.sm")),
                "powerW": float(smi("power.draw")),
                "date": datetime.date.today().isoformat(),
            }
        )
        beside = "" if peer_ms is None else f"  {peer} {peer_ms:8.3f} ms, {peer_ms / ms:5.2f}×"
        print(f"{operator:18} {case:44} {ms:8.3f} ms  floor {floor_ms:7.3f} ({floor_ms / ms:4.0%}){beside}", flush=True)

    # ---- selection ----

    def selection(self, requests, length, heads=32, kv_heads=8, head_dim=128, page_size=64):
        if not self.wants("selection"):
            return
        sets = []
        for _ in range(3):
            keys = Cache([length] * requests, length, kv_heads, head_dim, BF16, page_size, self.generator)
            keys.rows = None
            q = self.normal(requests, 128, heads, head_dim)
            blocks = -(-length // 64)
            out = [
                torch.empty((requests, blocks), dtype=torch.int64, device="cuda"),
                torch.empty((requests, -(-blocks // 32)), dtype=torch.int32, device="cuda"),
                torch.empty((requests, length), dtype=torch.int32, device="cuda"),
                int32([0] * requests),
                int32([0] * requests),
                int32([length] * requests),
                torch.tensor([round(0.9 * 2**32)] * requests, device="cuda"),
            ]
            p = up.Selection(
                dtype=up.BF16, requests=requests, heads=heads, kv_heads=kv_heads, head_dim=head_dim, max_rows=length, block=64,
                sink=128, last_q=128, rule=0, scale=head_dim**-0.5, queries=q, query_request_stride=128 * heads * head_dim,
                query_row_stride=heads * head_dim, query_head_stride=head_dim, keys=keys.kv, lengths=out[5], p_q32=out[6],
                masses=out[0], bitmaps=out[1], kept=out[2], kept_lengths=out[3], fallbacks=out[4],
            )
            sets.append((p, keys, q, out))
        scratch = self.backend.workspace_bytes("selection_workspace", sets[0][0])
        graphs = []
        for p, *_ in sets:
            self.backend.select(p)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.backend.select(p)
            graphs.append(graph)
        plain, replayed = median_ms([lambda i: self.backend.select(sets[i % 3][0]), lambda i: graphs[i % 3].replay()], 30)
        floor = 2 * requests * 128 * heads * length * head_dim / self.flop_per_ms
        case = f"{requests} × {length}, {heads}/{kv_heads} heads, d {head_dim}"
        self.row("selection", case, plain, floor, "", None, scratch)
        self.row("selection, graph", case, replayed, floor, "", None, scratch)

    # ---- prefill attention ----

    def prefill(self, length, head_dim=128, heads=32, kv_heads=8, page_size=64):
        if not self.wants("prefill"):
            return
        keys = Cache([length], length, kv_heads, head_dim, BF16, page_size, self.generator)
        values = Cache([length], length, kv_heads, head_dim, BF16, page_size, self.generator)
        q = self.normal(length, heads, head_dim)
        scale = head_dim**-0.5

        def call(rows):
            count = rows.numel()
            out = torch.full((count, heads, head_dim), float("nan"), dtype=BF16, device="cuda")
            chosen = q[rows].contiguous()
            hi, starts = rows.to(torch.int32).contiguous(), int32([0, count])
            p = up.PrefillAttention(
                dtype=up.BF16, requests=1, max_query_rows=count, max_key_rows=length, heads=heads, kv_heads=kv_heads,
                head_dim=head_dim, scale=scale, queries=chosen, query_row_stride=heads * head_dim, query_head_stride=head_dim,
                keys=keys.kv, values=values.kv, row_starts=starts, hi=hi, output=out,
                output_row_stride=heads * head_dim, output_head_stride=head_dim,
            )
            return p, (out, chosen, hi, starts)

        everything = torch.arange(length, device="cuda")
        full, kept = call(everything)
        tq, tk, tv = (x[None].transpose(1, 2) for x in (q, keys.rows[0], values.rows[0]))
        peer = "cuDNN"

        def cudnn(i):
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return F.scaled_dot_product_attention(tq, tk, tv, is_causal=True, enable_gqa=True, scale=scale)

        try:
            theirs = cudnn(0)
        except RuntimeError as refusal:
            print("cuDNN refused:", str(refusal).splitlines()[0])
            peer, theirs = "", None
        scratch = self.backend.attend_prefill(full)
        if theirs is not None:
            error = relative_error(kept[0], theirs[0].transpose(0, 1))
            assert error < 1e-2, f"prefill {length} d {head_dim}: {error} from cuDNN"
            del theirs
        repeats = 20 if length <= 16384 else 10 if length <= 32768 else 5
        functions = [lambda i: self.backend.attend_prefill(full)] + ([cudnn] if peer else [])
        times = median_ms(functions, repeats)
        pairs = length * (length + 1) / 2
        flop = 4 * heads * head_dim * pairs
        case = f"causal {length}, {heads}/{kv_heads} heads, d {head_dim}"
        self.row("prefill attention", case, times[0], flop / self.flop_per_ms, peer, times[1] if peer else None, scratch)
        print(f"{'':20}{flop / times[0] / 1e9:.0f} TFLOP/s" + (f", cuDNN {flop / times[1] / 1e9:.0f}" if peer else ""))
        if length > 100000:
            self.sliding(call, full, length, head_dim, heads, kv_heads, flop, repeats)
        if length < 32768 or head_dim != 128:
            return
        for count in (64, 128, 192, 256, 512, 1024):
            p, held = call(everything[length - count :])
            ms, whole = median_ms([lambda i: self.backend.attend_prefill(p), lambda i: self.backend.attend_prefill(full)], repeats)
            share = count * (length - (count - 1) / 2) / pairs
            self.row("prefill attention", f"last {count} of {length}", ms, share * flop / self.flop_per_ms, "share of full", share * whole)
        quarter = length // 4
        blocks = torch.randperm(length // 64, generator=self.generator, device="cuda")[: quarter // 64].sort().values
        uniform = (blocks[:, None] * 64 + torch.arange(64, device="cuda")).flatten()
        for name, rows in (
            ("uniform blocks", uniform),
            ("last quarter", everything[length - quarter :]),
            ("first quarter", everything[:quarter]),
        ):
            p, held = call(rows)
            ms, whole = median_ms([lambda i: self.backend.attend_prefill(p), lambda i: self.backend.attend_prefill(full)], repeats)
            share = float((rows + 1).double().sum()) / pairs
            self.row("prefill attention", f"{name} of {length}", ms, share * flop / self.flop_per_ms, "share of full", share * whole)

    def sliding(self, call, full, length, head_dim, heads, kv_heads, flop, repeats, window=1024):
        """Rows that see the last rows before them alone, beside their share of the causal time."""
        everything = torch.arange(length, device="cuda")
        p, held = call(everything)
        lo = (everything - window + 1).clamp(min=0).to(torch.int32).contiguous()
        p.lo = lo.data_ptr()
        ms, whole = median_ms([lambda i: self.backend.attend_prefill(p), lambda i: self.backend.attend_prefill(full)], repeats)
        pairs = window * (window + 1) / 2 + (length - window) * window
        share = pairs / (length * (length + 1) / 2)
        case = f"window {window} of {length}, {heads}/{kv_heads} heads, d {head_dim}"
        self.row("prefill attention", case, ms, share * flop / self.flop_per_ms, "share of full", share * whole)

    def sparse(self, length, head_dim=128, heads=32, kv_heads=8, page_size=64):
        """A quarter of the causal blocks, at random and in a band, beside a quarter of the causal time."""
        if not self.wants("sparse"):
            return
        keys, values = (Cache([length], length, kv_heads, head_dim, BF16, page_size, self.generator) for _ in range(2))
        keys.rows = values.rows = None
        q, out = self.normal(length, heads, head_dim), torch.empty(length, heads, head_dim, dtype=BF16, device="cuda")
        hi, starts = torch.arange(length, dtype=torch.int32, device="cuda"), int32([0, length])
        full = up.PrefillAttention(
            dtype=up.BF16, requests=1, max_query_rows=length, max_key_rows=length, heads=heads, kv_heads=kv_heads,
            head_dim=head_dim, scale=head_dim**-0.5, queries=q, query_row_stride=heads * head_dim, query_head_stride=head_dim,
            keys=keys.kv, values=values.kv, row_starts=starts, hi=hi, output=out, output_row_stride=heads * head_dim,
            output_head_stride=head_dim,
        )
        rows, blocks = length // 128, length // 64
        row, block = torch.arange(rows, device="cuda")[:, None], torch.arange(blocks, device="cuda")
        causal, last = block <= 2 * row + 1, block >= 2 * row
        chance = torch.rand(kv_heads, rows, blocks, generator=self.generator, device="cuda")
        width = next(w for w in range(1, blocks) if (causal & (block > 2 * row + 1 - w)).sum() >= 0.25 * causal.sum())
        weights = 1 << torch.arange(32, device="cuda")
        functions, kept, names, shares = [lambda i: self.backend.attend_prefill(full)], [], ("random", "band"), []
        for chosen in (causal & ((chance < 0.25) | last), (causal & (block > 2 * row + 1 - width)).expand(kv_heads, -1, -1)):
            bits = (chosen.reshape(kv_heads, rows, -1, 32) * weights).sum(-1)
            bits = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).contiguous()
            place = int32([0])
            p = up.SparseAttention(attention=full, query_blocks=rows, block_starts=place, bitmaps=bits)
            kept.append((p, bits, place))
            shares.append(chosen.sum().item() / kv_heads / causal.sum().item())
            functions.append(lambda i, p=p: self.backend.attend_sparse(p))
        times = self.median_ms(functions, 5 if length > 40000 else 10, 1)
        flop = 2 * heads * head_dim * length * (length + 1)
        for name, share, ms in zip(names, shares, times[1:]):
            case = f"{length}, {share:.1%} of the blocks, {name}, d {head_dim}"
            self.row("sparse attention", case, ms, share * flop / self.flop_per_ms, "share of full", share * times[0])

    # ---- decode attention ----

    def decode(self, requests, length, head_dim=128, heads=32, kv_heads=8, page_size=64):
        if not self.wants("decode"):
            return
        keys = Cache([length] * requests, length, kv_heads, head_dim, BF16, page_size, self.generator)
        values = Cache([length] * requests, length, kv_heads, head_dim, BF16, page_size, self.generator)
        q = self.normal(requests, heads, head_dim)
        out, end = torch.empty_like(q), int32([length] * requests)
        p = up.DecodeAttention(
            dtype=up.BF16, requests=requests, max_key_rows=length, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
            scale=head_dim**-0.5, queries=q, query_row_stride=heads * head_dim, query_head_stride=head_dim, keys=keys.kv,
            values=values.kv, end=end, output=out, output_row_stride=heads * head_dim, output_head_stride=head_dim,
        )
        scratch = self.backend.attend_decode(p)
        (ms,) = median_ms([lambda i: self.backend.attend_decode(p)], 20)
        read = 2 * requests * length * kv_heads * head_dim * 2
        self.row("decode attention", f"{requests} × {length}, {heads}/{kv_heads} heads, d {head_dim}", ms, read / self.copy_bytes_per_ms, scratch=scratch)

    # ---- the rest of a layer ----

    def elementwise(self, rows=32768, width=4096, inner=14336):
        if not self.wants("elementwise"):
            return
        x, y, total, out = (self.normal(rows, width) for _ in range(4))
        weight = self.normal(width)
        indices = torch.randperm(rows, device="cuda", generator=self.generator).to(torch.int32)
        count = int32([rows])
        gather = up.Gather(
            max_rows=rows, source_rows=rows, row_bytes=2 * width, source_stride_bytes=2 * width, target_stride_bytes=2 * width,
            source=x, indices=indices, count=count, target=out,
        )
        (ms,) = median_ms([lambda i: self.backend.gather_rows(gather)], 20)
        self.row("row gather", f"{rows} × {width}", ms, 4 * rows * width / self.copy_bytes_per_ms)
        common = dict(
            dtype=up.BF16, rows=rows, width=width, source_rows=rows, eps=1e-5, input=x, input_stride=width, weight=weight,
            output=out, output_stride=width, addend_stride=width, sum_stride=width,
        )
        norm = up.RmsNorm(**common)
        ms, peer = median_ms([lambda i: self.backend.normalise(norm), lambda i: F.rms_norm(x, (width,), weight, 1e-5)], 20)
        self.row("RMSNorm", f"{rows} × {width}", ms, 4 * rows * width / self.copy_bytes_per_ms, "torch", peer)
        fused = up.RmsNorm(**common, indices=indices, addend=y, sum=total)
        (ms,) = median_ms([lambda i: self.backend.normalise(fused)], 20)
        self.row("RMSNorm", f"{rows} × {width}, gather and residual", ms, 8 * rows * width / self.copy_bytes_per_ms)
        both, activated = self.normal(rows, 2 * inner), torch.empty(rows, inner, dtype=BF16, device="cuda")
        for kind, name in ((0, "SiLU·mul"), (1, "GELU·mul")):
            p = up.GatedActivation(
                dtype=up.BF16, activation=kind, rows=rows, inner=inner, input=both, input_stride=2 * inner, output=activated,
                output_stride=inner,
            )
            (ms,) = median_ms([lambda i: self.backend.activate(p)], 20)
            self.row(name, f"{rows} × {inner}", ms, 6 * rows * inner / self.copy_bytes_per_ms)
        del both, activated
        table, tokens = self.normal(128256, width), torch.randint(0, 128256, (rows,), dtype=torch.int32, device="cuda")
        embedding = up.Embedding(
            dtype=up.BF16, rows=rows, width=width, vocab_size=128256, tokens=tokens, table=table, table_stride=width, output=out,
            output_stride=width,
        )
        (ms,) = median_ms([lambda i: self.backend.embed(embedding)], 20)
        self.row("embedding", f"{rows} × {width} of 128256", ms, 4 * rows * width / self.copy_bytes_per_ms)
        heads, kv_heads, head_dim = 32, 8, 128
        qkv = self.normal(rows, heads + 2 * kv_heads, head_dim)
        angles = torch.rand(rows, head_dim // 2, device="cuda") * 6
        cos, sin = angles.cos(), angles.sin()
        caches = [Cache([rows], rows, kv_heads, head_dim, BF16, 64, self.generator) for _ in range(2)]
        order = torch.arange(rows, dtype=torch.int32, device="cuda")
        stride = (heads + 2 * kv_heads) * head_dim
        rope = up.RopeWrite(
            dtype=up.BF16, rows=rows, heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=head_dim, positions_limit=rows,
            requests=1, max_key_rows=rows, cosines=cos, sines=sin, positions=order, kv_rows=order, queries=qkv,
            query_row_stride=stride, keys=qkv[:, heads:], key_row_stride=stride, values=qkv[:, heads + kv_heads :],
            value_row_stride=stride, query_output=out, query_output_row_stride=heads * head_dim, key_cache=caches[0].kv,
            value_cache=caches[1].kv,
        )
        (ms,) = median_ms([lambda i: self.backend.rotate_and_write(rope)], 20)
        self.row("RoPE, KV write", f"{rows} rows, 32/8 heads, d 128", ms, 2 * 2 * rows * stride / self.copy_bytes_per_ms)

    def sampler(self, rows=64, vocab=128256):
        if not self.wants("sampler"):
            return
        logits = torch.randn(rows, vocab, device="cuda", generator=self.generator) * 3
        import numpy as np

        for name, temperature, top_p, top_k in (("greedy", 0, 1, 0), ("top-p 0.9", 1, 0.9, 0), ("top-k 50, top-p 0.9", 1, 0.9, 50)):
            parameters = np.zeros(rows, dtype=up.SAMPLE_ROW)
            parameters["temperature"], parameters["top_p"], parameters["top_k"] = temperature, top_p, top_k
            parameters["repetition_penalty"], parameters["slot"], parameters["seed"] = 1, -1, range(rows)
            device = torch.from_numpy(parameters.view(np.uint8)).cuda()
            tokens, logprobs, bad = int32([0] * rows), torch.empty(rows, device="cuda"), int32([0] * rows)
            p = up.Sampler(
                dtype=up.F32, rows=rows, vocab_size=vocab, logits=logits, logits_stride=vocab, parameters=device, tokens=tokens,
                logprobs=logprobs, non_finite=bad,
            )
            scratch = self.backend.sample(p)
            (ms,) = median_ms([lambda i: self.backend.sample(p)], 20)
            self.row("sampling", f"{rows} × {vocab}, {name}", ms, 4 * rows * vocab / self.copy_bytes_per_ms, scratch=scratch)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lib", metavar="library")
    parser.add_argument("output")
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    bench = Bench(up.Backend(arguments.lib), arguments.only)
    try:
        bench.selection(1, 8192)
        bench.selection(1, 32768)
        bench.selection(1, 131072)
        bench.selection(16, 8192)
        bench.selection(1, 131072, heads=16, kv_heads=2, head_dim=256)
        bench.decode(64, 8192)
        bench.decode(1, 131072)
        bench.decode(64, 8192, head_dim=256, heads=16, kv_heads=2)
        bench.elementwise()
        bench.delta_prefill(1, 32768, 16, 32)
        bench.delta_prefill(4, 8192, 16, 32)
        bench.delta_prefill(1, 32768, 16, 48)
        bench.delta_decode(64, 16, 32)
        bench.delta_rest()
        bench.moe(8192)
        bench.moe(64)
        bench.sampler()
        bench.prefill(8192)
        bench.prefill(32768)
        bench.prefill(8192, head_dim=256, heads=16, kv_heads=2)
        bench.prefill(32768, head_dim=256, heads=16, kv_heads=2)
        bench.sparse(32768)
        bench.sparse(131072)
        bench.prefill(131072)
        bench.prefill(131072, head_dim=256, heads=16, kv_heads=2)
    finally:
        with open(arguments.output, "w") as file:
            file.write("[\n" + ",\n".join(json.dumps(r) for r in bench.rows) + "\n]\n")


if __name__ == "__main__":
    main()
