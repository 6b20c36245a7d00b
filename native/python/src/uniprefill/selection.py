"""Selecting rows at a drop layer: by attention, as the schedule says, or at random, to a given share, for timing."""

import random

import torch

from . import operators as ops
from .rows import Kept
from .structures import RULES

ALL = 1 << 32


class Selector:
    """Carries out a schedule on one batch. `drops`: which requests are long enough to drop."""

    def __init__(self, schedule, lengths, keep, seed):
        self._schedule, self._prompts, self._keep = schedule, lengths, keep
        self._random = random.Random(seed)
        self._drops = [length >= schedule.min_prompt_tokens for length in lengths]
        self._next = 0
        self.fallbacks = 0

    def select(self, attention, queries, keys, rows):
        """queries [requests, last_q, heads, head_dim], keys the layer's cache. Returns the rows Kept. Waits for the device once."""
        schedule, number = self._schedule, self._next
        self._next += 1
        p = round(schedule.drop_layers[number].p * ALL)
        shares = torch.tensor([p if drops else ALL for drops in self._drops], dtype=torch.int64).to(keys.device)
        kept, kept_lengths, _, fallbacks, _ = ops.select(
            queries, keys, rows.lengths_tensor, shares, attention.scale, attention.soft_cap, schedule.sink, RULES[schedule.rule]
        )
        lengths, failed = torch.stack([kept_lengths, fallbacks]).tolist()
        self.fallbacks += sum(failed)
        if self._keep is not None:
            return self._at_random(rows, self._keep[number])
        width = max(lengths)
        held = torch.arange(width, device=kept.device) < kept_lengths[:, None]
        return Kept(rows, lengths, kept[:, :width][held])

    def _at_random(self, rows, share):
        """As many blocks, drawn at random, as make `share` of each prompt's rows with those that are always kept."""
        schedule, chosen = self._schedule, []
        block, sink, last = schedule.block, schedule.sink, schedule.last_q
        for prompt, length, drops in zip(self._prompts, rows.lengths, self._drops):
            free = range(-(-sink // block), (length - last) // block)
            wanted = max(0, round(share * prompt) - sink - last) // block
            if not drops or wanted >= len(free):
                chosen.append(torch.arange(length))
                continue
            blocks = torch.tensor(sorted(self._random.sample(free, wanted)), dtype=torch.int64)
            inside = (blocks[:, None] * block + torch.arange(block)).flatten()
            chosen.append(torch.cat([torch.arange(sink), inside, torch.arange(length - last, length)]))
        return Kept(rows, [len(index) for index in chosen], torch.cat(chosen).int().to(rows.positions.device))
