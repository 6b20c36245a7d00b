"""Keys, values and recurrent states of a batch, each layer's at its own length.

Layers with the same rows form a class: they share lengths, capacity and, under a sliding window, which rows are still held.
"""

import torch

RESERVE = 256  # rows of room behind a prompt, and what a class grows by


class KvClass:
    """Keys and values of the layers that hold the same rows. `lengths` (host) and `end` (device, int32) count the rows held."""

    def __init__(self, lengths, window):
        self.window, self.keys, self.values = window, {}, {}
        self.lengths = [min(length, window) for length in lengths] if window else list(lengths)
        self.capacity = max(self.lengths) + RESERVE
        self.end = None
        self.positions = None  # of the rows held, int32 [requests, capacity], where windows count by them

    def put(self, layer, keys, values, lengths):
        """Takes a layer's keys and values [requests, rows ≥ lengths, heads, head_dim]: as they are, or a window's last rows of them."""
        if self.window:
            keys, values = (tail(each, lengths, self.window, self.capacity) for each in (keys, values))
        self.keys[layer], self.values[layer] = keys, values
        if self.end is None:
            self.end = torch.tensor(self.lengths, dtype=torch.int32, device=keys.device)

    def advance(self, position, by):
        """Makes room for a row a request and counts it. `position` int32 [requests] of the new rows. Returns the rows to write and
        the first row that each sees (None: 0)."""
        if max(self.lengths) == self.capacity:
            self._make_room()
        write = self.end.clone()
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]
        if self.positions is not None:
            self.positions.scatter_(1, write.long()[:, None], position[:, None])
        if not self.window:
            return write, None
        if by == "kept":
            return write, (self.end - self.window).clamp(min=0)
        old = self.positions <= (position - self.window)[:, None]
        return write, (old & (torch.arange(self.capacity, device=old.device) < self.end[:, None])).sum(1, dtype=torch.int32)

    def _make_room(self):
        if self.window and max(self.lengths) - self.window >= RESERVE:
            # Rows that no later row sees leave.
            shift = [max(0, length - self.window) for length in self.lengths]
            for held in (self.keys, self.values):
                for layer in held:
                    held[layer] = tail(held[layer], self.lengths, self.window, self.capacity)
            if self.positions is not None:
                self.positions = tail(self.positions[:, :, None, None], self.lengths, self.window, self.capacity)[:, :, 0, 0]
            self.lengths = [length - each for length, each in zip(self.lengths, shift)]
            self.end -= torch.tensor(shift, dtype=torch.int32, device=self.end.device)
            return
        self.capacity += RESERVE
        for held in (self.keys, self.values):
            for layer in held:
                held[layer] = grown(held[layer], self.capacity)
        if self.positions is not None:
            self.positions = grown(self.positions[:, :, None, None], self.capacity)[:, :, 0, 0]


def tail(rows, lengths, count, capacity):
    """The last `count` rows of each request's first lengths[b] of rows [requests, rows, …], at the front of [requests, capacity, …]."""
    out = rows.new_empty((rows.shape[0], capacity, *rows.shape[2:]))
    for request, length in enumerate(lengths):
        held = min(length, count)
        out[request, :held] = rows[request, length - held : length]
    return out


def grown(rows, capacity):
    out = rows.new_empty((rows.shape[0], capacity, *rows.shape[2:]))
    out[:, : rows.shape[1]] = rows
    return out


class Store:
    """What a batch of prompts leaves behind, and what decoding reads and extends."""

    def __init__(self, batch, window_by):
        self.batch, self.window_by = batch, window_by
        self.classes = {}  # (segment, window) → KvClass
        self.of_layer = {}  # attention layer → KvClass
        self.convolutions, self.recurrences = {}, {}  # delta layer → states
        self.prompts = []  # rows of each prompt
        self.kept_lengths = []  # drop layer → rows of each prompt that it leaves
        self.kept_positions = []  # drop layer → int32, which, prompt behind prompt
        self.fallbacks = 0  # selections that kept everything because scores were not finite
        self.position = None  # int32 [requests], of the next row
        self.limit = 0  # no position is at or beyond it
        self.seen = 0  # columns of input so far, padding included

    def class_of(self, layer, segment, window, rows):
        """The class of an attention layer whose keys are `rows`."""
        key = (segment, window)
        if key not in self.classes:
            self.classes[key] = KvClass(rows.lengths, window)
            if window and self.window_by == "original":
                self.classes[key].positions = self._positions(rows, self.classes[key])
        self.of_layer[layer] = self.classes[key]
        return self.classes[key]

    def _positions(self, rows, own):
        padded = rows.positions.new_zeros((self.batch, rows.longest))
        padded[rows.requests.long(), rows.places.long()] = rows.positions
        return tail(padded[:, :, None, None], rows.lengths, own.window, own.capacity)[:, :, 0, 0].contiguous()

    def layer_lengths(self, layer):
        """Rows that an attention layer holds of each request, or None for a recurrent one."""
        held = self.of_layer.get(layer)
        return None if held is None else list(held.lengths)

    def bytes(self):
        held = [each for one in self.classes.values() for pair in (one.keys, one.values) for each in pair.values()]
        held += [*self.convolutions.values(), *self.recurrences.values()]
        return sum(each.numel() * each.element_size() for each in held)
