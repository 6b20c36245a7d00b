"""Every operator against double precision, on fresh random inputs, outputs poisoned. Prints one line a case.

usage: check.py LIBRARY [--seed N] [--quick]
"""

import argparse
import time

import torch

import backend as up
from check_attention import AttentionChecks
from check_delta import DeltaChecks
from check_layer import LayerChecks
from check_moe import MoeChecks
from check_sampler import SamplerChecks
from check_selection import SelectionChecks


class Checks(AttentionChecks, SelectionChecks, LayerChecks, DeltaChecks, MoeChecks, SamplerChecks):
    pass


def shapes(c, quick):
    bf16, f16 = torch.bfloat16, torch.float16
    r = c.random
    for d in (64, 128, 256):
        for page in (16, 32, 64, 128, 256, 0):
            n = r.choice([1, 63, 64, 65, 127, 128, 129, 255, 257, 640, 1000])
            c.prefill([n], [n], 4, 2, d, r.choice([bf16, f16]), page, "causal", slack=r.choice([0, 70]))
            c.prefill([n + 300, 0, 77, 500], [r.randint(1, n), 0, 77, 1], 6, 2, d, bf16, page, "subset", slack=9)
            c.prefill([n + 400, 129], [n + 100, 128], 4, 1, d, f16, page, "window", soft_cap=r.choice([0, 20.0]))
            # Few rows, whose keys are divided.
            few, long = r.choice([1, 63, 64, 65, 130, 300]), r.choice([1500, 4000, 9000])
            c.prefill([long, 70, 900], [few, r.randint(0, 70), 3], *r.choice([(8, 2), (4, 4), (14, 2), (3, 1)]), d, r.choice([bf16, f16]), page, r.choice(["causal", "subset"]), soft_cap=r.choice([0, 20.0]), slack=r.choice([0, 70]))
            c.prefill([n + 600, 0, 77], [r.randint(1, n), 0, 77], 4, 2, d, bf16, page, r.choice(["causal", "subset"]), density=r.choice([0.05, 0.3, 1]))
            c.prefill([n + 400, 130], [n, 128], 6, 2, d, f16, page, "window", soft_cap=r.choice([0, 20.0]), slack=9, density=0.5)
            ends = [r.choice([1, 15, 16, 17, 64, 100, 1023, 1024, 1025, 3000]) for _ in range(4)] + [0]
            begins = [r.randint(0, e - 1) if r.random() < 0.5 and e else 0 for e in ends]
            c.decode([0] * 5, ends, 8, 2, d, bf16, page)
            c.decode(begins, ends, *r.choice([(4, 4), (14, 2), (40, 2), (6, 1)]), d, f16, page, soft_cap=r.choice([0, 30.0]))
            lengths = [r.choice([1, 64, 127, 128, 129, 256, 257, 300, 1000, 2049, 5000]) for _ in range(3)] + [0, 4000]
            c.select(lengths, *r.choice([(8, 2), (4, 4), (14, 2)]), d, r.choice([bf16, f16]), page, rule=r.choice([0, 1]),
                     soft_cap=r.choice([0, 30.0]), last_q=r.choice([128, 100, 32]), sink=r.choice([128, 0, 70]), broken=r.choice([(), (4,)]))
        # Many short items, so that a block has several: one begins while the one before ends. Some see no keys.
        crowd = [300, 0, 77, 129, 640, 1] * 8
        c.prefill(crowd, crowd, 16, 4, d, bf16, 64, "window", soft_cap=r.choice([0, 20.0]))
        c.prefill(crowd, [r.randint(0, m) for m in crowd], 16, 2, d, f16, 0, r.choice(["causal", "subset"]), slack=70)
        c.prefill(crowd, crowd, 16, 4, d, bf16, 32, "causal", density=0.2)
    for _ in range(4):
        c.gather(r.randint(1, 700), r.randint(1, 900), 16 * r.randint(1, 600), r.choice([0, 5, 300, 10000]))
        for dtype in (bf16, f16):
            c.norm(r.randint(1, 300), 8 * r.randint(1, 1030), dtype, r.choice([0.0, 1.0]), r.random() < 0.5, r.random() < 0.5)
            c.norm(64, r.choice([128, 4096, 16384]), dtype, 1.0, True, True, count=r.randint(0, 64))
            d = r.choice([64, 128, 256])
            c.rope(r.randint(1, 100), r.choice([4, 6]), 2, d, r.choice([d, d // 4]), dtype, r.choice([0, 16, 64, 128, 256]))
            c.rope(r.randint(1, 100), r.choice([4, 6]), 2, d, r.choice([d, d // 4]), dtype, r.choice([0, 16, 64]), True, r.random() < 0.5)
            c.post_norm(r.randint(1, 300), 8 * r.randint(1, 1030), dtype, r.choice([0.0, 1.0]), r.random() < 0.5, r.random() < 0.7)
            c.post_norm(64, r.choice([128, 4096, 16384]), dtype, 1.0, True, True, count=r.randint(0, 64))
            c.output_gate(r.randint(1, 200), r.choice([1, 5, 16]), r.choice([64, 128, 256]), dtype)
            c.gated_norm(r.randint(1, 300), r.choice([1, 3, 32]), r.choice([64, 128, 256]), dtype)
            c.delta_input(r.choice([[1], [5, 1, 0, 70], [200, 64, 129], [1] * 40, [2, 3, 1, 31, 33, 2, 1, 100]]), 8 * r.randint(1, 300),
                          r.choice([2, 3, 4]), r.choice([0, 4, 32]), dtype)
            c.activation(r.randint(1, 200), 8 * r.randint(1, 2000), dtype, r.choice([0, 1]))
            c.embedding(r.randint(1, 200), 8 * r.randint(1, 500), 1000, dtype, r.choice([0.0, 33.5]))
        for dtype in (bf16, f16):
            lengths = r.choice([[1], [63, 64, 65], [130, 0, 1, 200], [256], [5, 127, 129]])
            d = (r.choice([64, 128]), r.choice([64, 128]))
            c.recur_prefill(lengths, *r.choice([(1, 1), (2, 4), (1, 3), (2, 2)]), *d, dtype, r.random() < 0.5)
            c.recur_decode(r.randint(1, 9), *r.choice([(1, 1), (2, 4), (1, 3)]), *d, dtype)
        for dtype in (bf16, f16):
            experts = r.choice([1, 8, 60, 256, 512, 1000])
            c.route(r.randint(1, 300), experts, r.randint(1, min(experts, 12)), r.choice([dtype, torch.float32]))
            experts = r.choice([1, 4, 16, 70])
            c.experts(r.choice([1, 5, 130, 300, 700]), 64 * r.randint(1, 9), 64 * r.randint(1, 6), experts, r.randint(1, min(experts, 8)),
                      dtype, r.choice([None, "plain", "gated"]))
        c.edit_logits(r.randint(1, 5), r.choice([100, 5000, 20000]), r.choice([torch.float32, bf16]))
        c.sampler(r.choice([3, 9]), r.choice([257, 4096, 32000, 128256]), r.choice([torch.float32, bf16]), r.choice([1, 5, 20]))
    c.sampler(2, 400000, torch.float32, 3)  # slices that no multiprocessor holds
    c.graph(3000, 8, 2, 128)
    c.graph(1100, 4, 2, 64)
    c.recur_prefill([700, 64], 4, 8, 128, 128, bf16, True)
    if not quick:
        c.experts(2000, 1024, 512, 64, 8, bf16, "gated")
        c.recur_prefill([300, 1, 128], 16, 32, 128, 128, bf16)  # two warpgroups a block, one when alone
        c.select([131072], 32, 8, 128, bf16, 64)
        c.select([8192] * 16, 32, 8, 128, bf16, 128, rule=1)
        c.prefill([5000], [5000], 8, 2, 128, bf16, 64, "causal")
        c.prefill([20000, 3], [1000, 3], 8, 2, 128, bf16, 64, "subset")
        c.prefill([131072], [64], 32, 8, 128, bf16, 64, "causal")
        c.prefill([19500], [3072], 64, 16, 128, bf16, 64, "causal")  # the last items are divided
        c.prefill([10400, 10300], [1100, 1000], 32, 2, 256, bf16, 64, "causal")
        c.prefill([60000, 40000] + [300] * 20, [192, 64] + [100] * 20, 32, 8, 128, bf16, 64, "causal")
        c.prefill([20000, 3], [1000, 3], 8, 2, 128, bf16, 64, "subset", density=0.25)
        c.decode([0] * 9, [20000] + [5000] * 8, 32, 8, 128, bf16, 64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("lib", metavar="library")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    backend = up.Backend(arguments.lib)
    print(f"{backend.name}, seed {arguments.seed}")
    checks = Checks(backend, arguments.seed)
    shapes(checks, arguments.quick)
    torch.cuda.synchronize()
    print(", ".join(f"{name} {count}" for name, count in sorted(checks.names.items())))
    print(f"{checks.cases} cases, {checks.failures} failed")
    raise SystemExit(1 if checks.failures else 0)


if __name__ == "__main__":
    main()
