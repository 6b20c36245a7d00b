#!/usr/bin/env python3
"""Times NCCL's all-reduce of bf16 by bytes, as torch calls it: in a CUDA graph up to 4 MiB, one by one above. What our own sums over
devices (native/bench/cuda/peer_sum_bench.cu) are compared with.

    nccl.py [RANKS]       JSON lines {"bytes", "micros"}, medians
"""
import json
import os
import sys

import torch
import torch.distributed as dist


def work(rank, ranks):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29571")
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=ranks)
    stream = torch.cuda.Stream()
    for size in (8 << 10, 128 << 10, 512 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30):
        rows = torch.randn(size // 2, device="cuda").to(torch.bfloat16)
        calls = 64 if size <= 4 << 20 else 4

        def run():
            for _ in range(calls):
                dist.all_reduce(rows)

        with torch.cuda.stream(stream):
            run()
            stream.synchronize()
            graph = None
            if size <= 4 << 20:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    run()
            times = []
            for _ in range(12):
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record(stream)
                graph.replay() if graph else run()
                end.record(stream)
                end.synchronize()
                times.append(begin.elapsed_time(end) * 1000 / calls)
        if rank == 0:
            print(json.dumps({"bytes": size, "ranks": ranks, "graph": graph is not None, "micros": round(sorted(times)[6], 2),
                              "nccl": ".".join(map(str, torch.cuda.nccl.version()))}), flush=True)
        del graph
    dist.destroy_process_group()


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    torch.multiprocessing.spawn(work, args=(count,), nprocs=count)
