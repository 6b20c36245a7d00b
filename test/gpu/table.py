"""Turns rows of bench.py into a table for people: table.py cuda-h100.json > cuda-h100.md"""

import json
import os
import sys

rows = json.load(open(sys.argv[1]))
first = rows[0]
versions = first["versions"]
print(f"""# CUDA operators on one {first["device"]}

{first["date"]}; backend {versions["backend"]}, torch {versions["torch"]}, cuDNN {versions["cudnn"]}, driver {versions["driver"]}. Measured by
`test/gpu/run`: medians of device events, random data, ours and the peer alternating in one run, bf16, keys and values in
shuffled pages of 64 rows. *Floor* is the larger of the operations over the bf16 GEMM rate and the bytes over the copy
bandwidth that the same run measured ({versions["gemmTflops"]} TFLOP/s, {versions["copyTbs"]} TB/s). Clocks are what the card did under its
power limit.

| operator | case | ms | floor ms | floor / ms | peer | peer ms | peer / ours | scratch MB | SM MHz | W |
| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |""")
for r in rows:
    peer = f"{r['peer']} | {r['peerMs']:.3f} | {r['peerMs'] / r['medianMs']:.2f}" if r["peerMs"] else "| |"
    print(
        f"| {r['operator']} | {r['case']} | {r['medianMs']:.3f} | {r['floorMs']:.3f} | {r['floorMs'] / r['medianMs']:.0%} | {peer} "
        f"| {r['scratchBytes'] / 1e6:.1f} | {r['smClockMHz']} | {r['powerW']:.0f} |"
    )
print(f"""
*share of full*: what the same run's full attention takes, times the visible pairs of the case over all causal pairs.
`{os.path.basename(sys.argv[1])}` beside this holds the same rows as data.""")
for versions in {json.dumps(r["versions"]): r["versions"] for r in rows[1:] if r["versions"] != first["versions"]}.values():
    operators = ", ".join(dict.fromkeys(r["operator"] for r in rows if r["versions"] == versions))
    print(f"""
From another run, which measured {versions["gemmTflops"]} TFLOP/s and {versions["copyTbs"]} TB/s: {operators}.""")
