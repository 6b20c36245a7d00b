"""Sampling against the same steps in double precision."""

import numpy as np
import torch

import backend as up
from check_run import POISON, CheckRun
from tensors import int32


class SamplerChecks(CheckRun):
    def edits(self, rows, vocab):
        """Random edits of logits, and a function (row, logits) that applies them in double."""
        r = self.random
        lists = [[(r.randint(-2, vocab + 1), r.choice([-3.0, 0.5, 4.0, float("-inf")])) for _ in range(r.choice([0, 0, 1, 40]))] for _ in range(rows)]
        for each in lists[::2]:
            each += [(t, 1.25) for t, _ in each[:3]]  # some tokens twice
        starts = int32([sum(len(x) for x in lists[:i]) for i in range(rows + 1)])
        flat = [e for each in lists for e in each] + [(0, 0.0)]
        tokens, values = int32([t for t, _ in flat]), torch.tensor([v for _, v in flat], device="cuda")
        masks = torch.randint(-(2**31), 2**31 - 1, (2, -(-vocab // 32)), dtype=torch.int32, device="cuda", generator=self.generator)
        mask_rows = [r.choice([-1, -1, 0, 1, 2]) for _ in range(rows)]
        mask_rows_t = int32(mask_rows)
        struct = up.LogitEdits(
            starts.data_ptr(), tokens.data_ptr(), values.data_ptr(), len(flat), 2, mask_rows_t.data_ptr(), masks.data_ptr()
        )
        self.held = (starts, tokens, values, masks, mask_rows_t)
        words = masks.cpu().numpy().view(np.uint32)

        def changed(i, logits):
            scores = logits.copy()
            if 0 <= mask_rows[i] < 2:
                at = np.arange(vocab)
                scores[(words[mask_rows[i], at // 32] >> (at % 32).astype(np.uint32) & 1) == 0] = -np.inf
            for token, value in lists[i]:
                if 0 <= token < vocab:
                    scores[token] += value
            return scores

        return struct, changed

    def edit_logits(self, rows, vocab, dtype):
        logits = self.normal(rows, vocab + 3, dtype=dtype, scale=9)
        edits, changed = self.edits(rows, vocab)
        cap = self.random.choice([0.0, 30.0])
        raw = logits.double().cpu().numpy()
        p = up.LogitEdit(
            dtype=up.DTYPES[dtype], rows=rows, vocab_size=vocab, soft_cap=cap, logits=logits, logits_stride=vocab + 3, edits=edits
        )
        self.backend.edit_logits(p)
        found = logits.double().cpu().numpy()
        capped = np.tanh(raw / cap) * cap if cap else raw
        error = 0.0 if np.array_equal(found[:, vocab:], raw[:, vocab:]) else float("inf")
        for i in range(rows):
            expected = changed(i, capped[i, :vocab])
            if not np.array_equal(np.isinf(expected), np.isinf(found[i, :vocab])):
                error = float("inf")
            finite = np.isfinite(expected)
            error = max(error, np.abs(expected[finite] - found[i, :vocab][finite]).max(initial=0.0))
        limit = 3e-4 if dtype == torch.float32 else 0.15  # half a step of bf16 at 32, twice
        self.report("edit", f"{rows} × {vocab} {dtype} cap {cap}", error, limit)

    def sampler(self, rows, vocab, dtype, count):
        logits = self.normal(rows, vocab, dtype=dtype, scale=3)
        logits[:, ::17] = float("-inf")
        broken = rows > 4
        if broken:
            logits[1, 5] = float("nan")
            logits[2] = float("-inf")
        slots = 3
        parameters = np.zeros(rows, dtype=up.SAMPLE_ROW)
        r = self.random
        for i in range(rows):
            parameters[i] = (
                r.getrandbits(63), r.randint(0, 999), r.choice([0, 0.7, 1.3]), r.choice([1, 0.9, 0.5]), r.choice([0, 0.05]),
                r.choice([0, 0.4]), r.choice([0, 0.3]), r.choice([1, 1.3]), r.choice([0, 1, 40]), r.choice([-1, 0, 1, 2]),
            )
        words = -(-vocab // 32)
        prompt = torch.randint(-(2**31), 2**31 - 1, (slots, words), dtype=torch.int32, device="cuda", generator=self.generator)
        counts = torch.randint(-8, 4, (slots, vocab), dtype=torch.int32, device="cuda", generator=self.generator).clamp(min=0)
        often = counts.cpu().numpy()
        tokens, bad = int32([-9] * rows), int32([-9] * rows)
        edits, changed = self.edits(rows, vocab)
        forced = [r.randint(0, vocab // 17 - 1) * 17 + 5 if r.random() < 0.2 else r.choice([-1, vocab]) for _ in range(rows)]
        forced_t = int32(forced) if r.random() < 0.7 else None
        # Slots of the rows are their own where tokens are counted.
        counting = r.random() < 0.5
        if counting:
            for i in range(rows):
                parameters[i]["slot"] = i if i < slots else -1
        device_parameters = torch.from_numpy(parameters.view(np.uint8)).cuda()
        last = int32([-9] * slots)
        logprobs = torch.full((rows,), POISON, device="cuda")
        top_tokens = torch.full((rows, count), -9, dtype=torch.int32, device="cuda")
        top_logprobs = torch.full((rows, count), POISON, device="cuda")
        p = up.Sampler(
            dtype=up.DTYPES[dtype], rows=rows, vocab_size=vocab, slots=slots, logprob_count=count, logits=logits,
            logits_stride=vocab, parameters=device_parameters, prompt_tokens=prompt, output_counts=counts, tokens=tokens,
            logprobs=logprobs, top_tokens=top_tokens, top_logprobs=top_logprobs, non_finite=bad, edits=edits,
            forced=forced_t, last_tokens=last, count_outputs=int(counting),
        )
        self.backend.sample(p)
        raw, bits = logits.double().cpu().numpy(), prompt.cpu().numpy().view(np.uint32)
        counted, last_tokens = counts.cpu().numpy(), last.tolist()
        prompted = (bits[:, np.arange(vocab) // 32] >> (np.arange(vocab) % 32).astype(np.uint32) & 1).astype(bool)
        for i in range(rows):
            r, scores = parameters[i], changed(i, raw[i])
            if broken and i in (1, 2):
                good = int(bad[i]) == 1 and int(tokens[i]) == 0
                self.report("sample", f"non-finite row {i}", 0.0 if good else float("inf"), 0)
                continue
            if r["slot"] >= 0:
                seen, n = prompted[r["slot"]], often[r["slot"]]
                rep = float(r["repetition_penalty"])
                scores = np.where(seen | (n > 0), np.where(scores > 0, scores / rep, scores * rep), scores)
                scores = scores - float(r["frequency_penalty"]) * n - float(r["presence_penalty"]) * (n > 0)
            # What is reported is the distribution that the logits give.
            log_shares = raw[i] - raw[i].max() - np.log(np.exp(raw[i] - raw[i].max()).sum())
            token = int(tokens[i])
            put = forced_t is not None and 0 <= forced[i] < vocab
            allowed = {forced[i]} if put else draws(scores, r)
            order = np.lexsort((np.arange(vocab), -raw[i]))[:count]
            near = np.abs(top_logprobs[i].cpu().numpy() - log_shares[order]).max() if count else 0.0
            good = int(bad[i]) == 0 and token in allowed and top_tokens[i].tolist() == order.tolist()
            if 0 <= r["slot"] < slots and counting:
                more = counted[r["slot"]] - often[r["slot"]]
                good = good and more[token] == 1 and more.sum() == 1 and last_tokens[r["slot"]] == token
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
