"""The forward pass over a model's table: a batch of prompts with dropping, then one row a request a step.

At a drop layer keys and values are written for all rows, the last queries select, and only the rows kept go on: each of them sees the
keys up to its own place. In the last layer only each prompt's last row goes on.
"""

import torch
import torch.nn.functional as F

from . import operators as ops
from .rows import Kept, Rows
from .selection import Selector
from .store import RESERVE, Store

MLP_ROWS = 16384  # rows of an MLP at a time: its inner rows are wide


class Forward:
    """Carries a schedule out on a model's table."""

    def __init__(self, model, schedule, angles, keep=None, seed=0):
        self._model, self._schedule, self._angles, self._keep, self._seed = model, schedule, angles, keep, seed
        self._drop_layers = {drop.layer for drop in schedule.drop_layers}

    # ------------------------------------------------------------------------------------------------ prefill

    def prefill(self, hidden, positions, lengths):
        """Rows of prompts end to end: hidden [rows, width], positions int32 [rows], lengths of each prompt.

        Returns the normed last row of each prompt [prompts, width] and the Store. Waits for the device once a drop layer.
        """
        model, schedule = self._model, self._schedule
        rows = Rows(lengths, positions)
        store = Store(len(lengths), schedule.window_by)
        store.prompts = list(lengths)
        ends = positions[rows.last(1)[:, 0]]
        store.position = ends + 1
        store.limit = int(ends.max()) + 1
        angles = self._angles.tables(store.limit + RESERVE)
        selector = Selector(schedule, lengths, self._keep, self._seed)
        segment = 0
        normed = self._normalise(hidden, model.layers[0].input_norm)
        for i, layer in enumerate(model.layers):
            kept = None
            if layer.kind == "delta":
                mixed = self._recur(layer.mixer, normed, rows, store, i)
            else:
                mixed, kept = self._attend(layer.mixer, normed, rows, store, i, segment, angles, selector)
            if kept is not None:
                hidden, rows = hidden.index_select(0, kept.index), kept.rows
                if i in self._drop_layers:
                    segment += 1
                    store.kept_lengths.append(list(rows.lengths))
                    store.kept_positions.append(rows.positions)
            hidden, normed = self._finish(i, layer, hidden, mixed)
        store.fallbacks = selector.fallbacks
        return normed[rows.last(1)[:, 0]] if rows.longest > 1 else normed, store

    def _attend(self, attention, normed, rows, store, i, segment, angles, selector):
        """Returns the mixed rows, and which rows they are when not all go on."""
        module, own = attention.module, store.class_of(i, segment, attention.window, rows)
        capacity = rows.longest if attention.window else own.capacity
        shape = (store.batch, capacity, attention.kv_heads, attention.head_dim)
        keys, values = (normed.new_empty(shape) for _ in range(2))
        self._write(attention, normed, keys, values, angles, rows.positions, rows.requests, rows.places)
        kept = None
        if i in self._drop_layers:
            last = rows.last(self._schedule.last_q)
            queries, _ = self._queries(attention, normed[last.flatten()], angles, rows.positions[last.flatten()])
            kept = selector.select(attention, queries.view(*last.shape, *queries.shape[1:]), keys, rows)
        elif i == len(self._model.layers) - 1:
            kept = Kept(rows, [1] * store.batch, rows.lengths_tensor - 1)
        ahead, places = (rows, rows.places) if kept is None else (kept.rows, kept.places)
        low = None
        if attention.window:
            low = rows.lower_bounds(attention.window, self._schedule.window_by)
            low = low if kept is None else low[kept.index]
        normed = normed if kept is None else normed.index_select(0, kept.index)
        queries, gate = self._queries(attention, normed, angles, ahead.positions)
        del normed
        attended = ops.attend_prefill(queries, keys, values, ahead.starts, low, places, attention.scale, attention.soft_cap)
        own.put(i, keys, values, rows.lengths)
        return self._out(module, attended, gate), kept

    def _recur(self, delta, normed, rows, store, i):
        store.convolutions[i] = normed.new_empty((store.batch, delta.kernel - 1, delta.weight.shape[0]))
        shape = (store.batch, delta.value_heads, delta.key_dim, delta.value_dim)
        store.recurrences[i] = normed.new_empty(shape, dtype=torch.float32)
        slots = torch.arange(store.batch, dtype=torch.int32, device=normed.device)
        return self._delta(delta, normed, rows.starts, store, i, slots - store.batch, slots, ops.recur_prefill)

    # ------------------------------------------------------------------------------------------------ decode

    def decode(self, hidden, store):
        """One row a request, hidden [requests, width]. Returns its normed row [requests, width] and extends the Store."""
        position = store.position
        store.limit += 1
        angles = self._angles.tables(store.limit)
        requests = torch.arange(store.batch, dtype=torch.int32, device=hidden.device)
        starts = torch.arange(store.batch + 1, dtype=torch.int32, device=hidden.device)
        room = {id(own): own.advance(position, store.window_by) for own in store.classes.values()}
        normed = self._normalise(hidden, self._model.layers[0].input_norm)
        for i, layer in enumerate(self._model.layers):
            if layer.kind == "delta":
                mixed = self._delta(layer.mixer, normed, starts, store, i, requests, requests, ops.recur_decode)
            else:
                own = store.of_layer[i]
                write, begin = room[id(own)]
                attention, keys, values = layer.mixer, own.keys[i], own.values[i]
                self._write(attention, normed, keys, values, angles, position, requests, write)
                queries, gate = self._queries(attention, normed, angles, position)
                attended = ops.attend_decode(queries, keys, values, begin, own.end, attention.scale, attention.soft_cap)
                mixed = self._out(attention.module, attended, gate)
            hidden, normed = self._finish(i, layer, hidden, mixed)
        store.position = position + 1
        return normed

    # ------------------------------------------------------------------------------------------------ parts of a layer

    def _normalise(self, rows, norm):
        return ops.normalise(rows, norm.weight, norm.eps, self._model.norm_offset)

    def _write(self, attention, normed, keys, values, angles, positions, requests, places):
        """Keys and values of rows into a cache [requests, capacity, heads, head_dim]."""
        module, shape = attention.module, (-1, attention.kv_heads, attention.head_dim)
        norm, (cosines, sines) = attention.key_norm, angles[attention.rope]
        ops.write_keys(
            module.k_proj(normed).view(shape), module.v_proj(normed).view(shape), keys, values, cosines, sines, positions, requests,
            places, None if norm is None else norm.weight, 0.0 if norm is None else norm.eps, self._model.norm_offset,
        )  # fmt: skip

    def _queries(self, attention, normed, angles, positions):
        """Rotated queries [rows, heads, head_dim], and the gate of the same shape or None."""
        projected = attention.module.q_proj(normed).view(len(normed), attention.heads, -1)
        gate = projected[:, :, attention.head_dim :] if attention.gated else None
        norm, (cosines, sines) = attention.query_norm, angles[attention.rope]
        queries = ops.rotate(
            projected[:, :, : attention.head_dim], cosines, sines, positions, None if norm is None else norm.weight,
            0.0 if norm is None else norm.eps, self._model.norm_offset,
        )  # fmt: skip
        return queries, gate

    def _out(self, module, attended, gate):
        if gate is not None:
            ops.apply_gate(attended, gate)
        return module.o_proj(attended.flatten(1))

    def _delta(self, delta, normed, starts, store, i, source, target, recur):
        module, state = delta.module, store.convolutions[i]
        mixed, decay, beta = ops.delta_prepare(
            module.in_proj_qkv(normed), delta.weight, starts, state, source, target, module.in_proj_a(normed),
            module.in_proj_b(normed), delta.a_log, delta.dt_bias,
        )  # fmt: skip
        width = delta.key_heads * delta.key_dim
        queries, keys, values = mixed.split((width, width, delta.value_heads * delta.value_dim), 1)
        queries, keys = (each.unflatten(1, (delta.key_heads, delta.key_dim)) for each in (queries, keys))
        values = values.unflatten(1, (delta.value_heads, delta.value_dim))
        more = (starts,) if recur is ops.recur_prefill else ()
        out = recur(queries, keys, values, decay, beta, *more, store.recurrences[i], source, target, 1e-6, delta.key_dim**-0.5)
        gate = module.in_proj_z(normed).view(out.shape)
        out = ops.normalise_gated(out, gate, delta.norm.weight, delta.norm.eps)
        return module.out_proj(out.flatten(1))

    def _finish(self, i, layer, hidden, mixed):
        """The rest of a layer behind its mixer. Returns the residual stream and its norm for what follows."""
        model = self._model
        follows = model.layers[i + 1].input_norm if i + 1 < len(model.layers) else model.final_norm
        hidden, normed = self._join(hidden, mixed, layer.post_attention_norm, layer.mlp_norm)
        del mixed
        return self._join(hidden, self._mlp(layer.mlp, normed), layer.post_mlp_norm, follows)

    def _join(self, hidden, branch, post, follows):
        offset = self._model.norm_offset
        if post is None:
            return ops.add_and_normalise(branch, hidden, follows.weight, follows.eps, offset)
        return ops.add_normed(branch, hidden, post.weight, follows.weight, post.eps, follows.eps, offset)

    def _mlp(self, mlp, rows):
        if len(rows) <= MLP_ROWS:
            return mlp.down_proj(self._inner(mlp, rows))
        out = torch.empty_like(rows)
        for begin in range(0, len(rows), MLP_ROWS):
            out[begin : begin + MLP_ROWS] = mlp.down_proj(self._inner(mlp, rows[begin : begin + MLP_ROWS]))
        return out

    def _inner(self, mlp, rows):
        gate = mlp.gate_proj(rows)
        gate = F.silu(gate, inplace=True) if self._model.activation == "silu" else F.gelu(gate, approximate="tanh")
        return gate.mul_(mlp.up_proj(rows))
