"""Sampling against the same steps in double precision."""

import numpy as np
import torch

import backend as up
from check_run import POISON, CheckRun
from tensors import int32


class SamplerChecks(CheckRun):
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
