"""The rows of a batch of prompts, laid end to end, and which of them go on."""

import torch

from .errors import UnsupportedError


class Rows:
    """Rows of several requests, end to end: `lengths` of each (on the host), and on the device, int32, `starts` [requests + 1],
    `positions` in the original prompts, `requests` and `places` (index in the request) of each row."""

    def __init__(self, lengths, positions):
        self.lengths, self.positions = lengths, positions
        device = positions.device
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        self.count = bounds[-1]
        # One copy for both tables.
        packed = torch.tensor([bounds, [*lengths, 0]], dtype=torch.int32).to(device, non_blocking=True)
        self.starts, self.lengths_tensor = packed[0], packed[1, : len(lengths)].clone()
        every = torch.arange(self.count, dtype=torch.int32, device=device)
        owners = torch.arange(len(lengths), dtype=torch.int32, device=device)
        self.requests = owners.repeat_interleave(self.lengths_tensor.long(), output_size=self.count)
        self.places = every - self.starts[self.requests.long()]

    @property
    def longest(self):
        return max(self.lengths)

    def lower_bounds(self, window, by):
        """The first row that each row sees through a window, counted in kept rows or in original positions."""
        if by == "kept":
            return (self.places - (window - 1)).clamp_(min=0)
        # Positions ascend in a request; a request's own range of numbers makes them ascend over the batch.
        apart = self.requests.long() << 32
        first = torch.searchsorted(apart + self.positions, apart + (self.positions.long() - (window - 1)).clamp(min=0))
        return (first - self.starts[self.requests.long()]).int()

    def last(self, count):
        """Flat indices of the last `count` rows of each request, int64 [requests, count]; a shorter request's are at the front."""
        ends = self.starts[1:].long()
        lengths = self.lengths_tensor.long()
        taken = lengths.clamp(max=count)
        index = (ends - taken)[:, None] + torch.arange(count, device=ends.device)
        return torch.minimum(index, (ends - 1)[:, None])


class Kept:
    """What a selection leaves: `rows`, the Rows that go on; `index` int64, where each was in the rows before; `places`, int32, its
    place in its request there."""

    def __init__(self, before, lengths, local):
        """local: int32 [rows left], places in the requests of `before`, ascending in each."""
        device = local.device
        owners = torch.arange(len(lengths), device=device)
        counts = torch.tensor(lengths, device=device)
        owner = owners.repeat_interleave(counts, output_size=sum(lengths))
        self.places = local
        self.index = before.starts[owner].long() + local
        self.rows = Rows(lengths, before.positions[self.index])


def unpad(attention_mask, shape, device):
    """Lengths of the prompts, and the mask of their rows [batch, width] or None where all rows are theirs.

    Fails with UnsupportedError unless each prompt's rows lie side by side.
    """
    batch, width = shape
    if attention_mask is None:
        return [width] * batch, None
    if isinstance(attention_mask, dict) or attention_mask.dim() != 2:
        raise UnsupportedError("an attention mask that is not [batch, rows] is not supported: pass the tokenizer's")
    if tuple(attention_mask.shape) != (batch, width):
        raise UnsupportedError(f"an attention mask of shape {tuple(attention_mask.shape)} for input of shape {(batch, width)}")
    mask = attention_mask.to(device) != 0
    places = torch.arange(width, device=device)
    first = torch.where(mask, places, width).amin(1)
    last = torch.where(mask, places, -1).amax(1)
    lengths, spans = torch.stack([mask.sum(1), last - first + 1]).tolist()
    for i, (length, span) in enumerate(zip(lengths, spans)):
        if length == 0 or length != span:
            fault = "masks out all of prompt" if length == 0 else "has holes in prompt"
            raise UnsupportedError(f"an attention mask that {fault} {i} is not supported: pad prompts on one side")
    return lengths, None if min(lengths) == width else mask
