"""What the checks of operators share: a seed, limits of error, a report."""

import random
from collections import Counter

import torch

LIMIT = {torch.bfloat16: 8e-3, torch.float16: 1.5e-3}
POISON = -12345.0


class CheckRun:
    """Random inputs from one seed, and a count of what was checked."""

    def __init__(self, backend, seed):
        self.backend = backend
        self.random = random.Random(seed)
        self.generator = torch.Generator(device="cuda").manual_seed(seed)
        self.failures = 0
        self.cases = 0
        self.names = Counter()

    def normal(self, *shape, dtype=torch.float32, scale=1.0):
        return (torch.randn(*shape, generator=self.generator, device="cuda") * scale).to(dtype)

    def report(self, name, detail, error, limit):
        ok = error <= limit
        self.cases += 1
        self.names[name] += 1
        self.failures += not ok
        if not ok or self.cases % 10 == 0:
            print(f"{'ok  ' if ok else 'FAIL'} {name:10} {error:9.2e} ≤ {limit:.0e}  {detail}", flush=True)
