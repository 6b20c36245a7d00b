"""Convolution, gates, the delta rule and the gated norm against double precision."""

import torch

import backend as up
from check_run import LIMIT, POISON, CheckRun
from tensors import int32, relative_error


class DeltaChecks(CheckRun):
    def states(self, lengths, size, dtype, scale=1.0):
        """Random states for requests of `lengths`, in shuffled slots; some begin with zeros, go on in place, or leave nothing.

        Returns up_states, the tensor, and what the checks must know: sources, targets and snapshots [(request, rows, slot)].
        """
        r, requests = self.random, len(lengths)
        snapshots = [(b, 64 * (i + 1)) for b, n in enumerate(lengths) for i in range(n // 64) if r.random() < 0.5]
        slots = 2 * requests + len(snapshots) + 2
        order = r.sample(range(slots), slots)
        data = self.normal(slots, size, dtype=dtype, scale=scale)
        source = [order.pop() if r.random() < 0.7 else r.choice([-1, slots]) for _ in lengths]
        target = [s if 0 <= s < slots and r.random() < 0.5 else order.pop() if r.random() < 0.8 else -1 for s in source]
        taken = [(b, rows, order.pop()) for b, rows in snapshots]
        starts = [sum(b < request for b, _, _ in taken) for request in range(requests + 1)]
        held = [int32(x) for x in (source, target, starts, [t[1] for t in taken] + [0], [t[2] for t in taken] + [0])]
        states = up.States(data.data_ptr(), size, slots, len(taken), *(t.data_ptr() for t in held))
        return states, data, (source, target, taken, held)

    def expected_states(self, before, lengths, leave):
        """The pool after the call: leave(request, rows) is the state after so many rows."""
        data, (_, target, taken, _) = before
        expected = data.double()
        for b, n in enumerate(lengths):
            if n and 0 <= target[b] < data.shape[0]:
                expected[target[b]] = leave(b, n).flatten()
        for b, rows, slot in taken:
            expected[slot] = leave(b, rows).flatten()
        return expected

    def delta_input(self, lengths, channels, kernel, heads, dtype):
        rows, spare = sum(lengths), self.random.choice([0, 3])
        x = self.normal(rows + spare, channels + 16, dtype=dtype)
        weight = self.normal(channels, kernel, dtype=dtype, scale=0.5)
        states, data, book = self.states(lengths, (kernel - 1) * channels, dtype)
        before = data.clone()
        starts = int32([sum(lengths[:b]) for b in range(len(lengths) + 1)])
        out = torch.full((rows + spare, channels + 8), POISON, dtype=dtype, device="cuda")
        gates = self.normal(rows + spare, 2 * max(heads, 1) + 1, dtype=dtype, scale=4)
        a_log, dt_bias = self.normal(max(heads, 1)), self.normal(max(heads, 1))
        decay, beta = (torch.full((rows + spare, max(heads, 1)), POISON, device="cuda") for _ in range(2))
        p = up.DeltaInput(
            dtype=up.DTYPES[dtype], requests=len(lengths), max_rows=rows + spare, channels=channels, kernel=kernel, input=x,
            input_row_stride=channels + 16, weight=weight, row_starts=starts, states=states, output=out,
            output_row_stride=channels + 8, heads=heads, decay_input=gates[:, heads:], decay_input_stride=gates.shape[1],
            beta_input=gates, beta_input_stride=gates.shape[1], a_log=a_log, dt_bias=dt_bias, decay=decay, beta=beta,
        )
        self.backend.delta_prepare(p)
        inputs = []  # [kernel - 1 + length, channels] of each request
        for b, n in enumerate(lengths):
            slot = book[0][b]
            past = before[slot].reshape(kernel - 1, channels) if 0 <= slot < data.shape[0] else torch.zeros_like(x[: kernel - 1, :channels])
            first = int(starts[b])
            inputs.append(torch.cat([past, x[first : first + n, :channels]]).double())
        expected = torch.full(out.shape, POISON, dtype=torch.float64, device="cuda")
        for b, n in enumerate(lengths):
            sums = sum(inputs[b][t : t + n] * weight[:, t].double() for t in range(kernel))
            expected[int(starts[b]) : int(starts[b]) + n, :channels] = torch.nn.functional.silu(sums)
        error = relative_error(out[:rows, :channels], expected[:rows, :channels])
        exact = torch.equal(data.double(), self.expected_states((before, book), lengths, lambda b, n: inputs[b][n : n + kernel - 1]))
        exact = exact and bool((out[rows:] == POISON).all()) and bool((out[:, channels:] == POISON).all())
        if heads:
            b, a = gates[:rows, :heads].double(), gates[:rows, heads : 2 * heads].double()
            expected_decay = -a_log.double().exp() * torch.nn.functional.softplus(a + dt_bias.double())
            error = max(error, relative_error(decay[:rows], expected_decay), relative_error(beta[:rows], torch.sigmoid(b)))
            exact = exact and bool((decay[rows:] == POISON).all()) and torch.equal(beta[:rows], beta[:rows].to(dtype).float())
        detail = f"lengths {lengths} channels {channels} kernel {kernel} heads {heads} {dtype}"
        self.report("delta in", detail, error if exact else float("inf"), LIMIT[dtype] / 2)

    def gated_norm(self, rows, heads, head_dim, dtype):
        x, both = self.normal(rows, heads * head_dim, dtype=dtype, scale=3), self.normal(rows, heads * head_dim + 24, dtype=dtype, scale=2)
        weight = self.normal(head_dim, dtype=dtype)
        in_place = self.random.random() < 0.5
        expected = x.double().reshape(rows, heads, head_dim)
        expected = expected * (expected.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        z = both[:, : heads * head_dim].double().reshape(rows, heads, head_dim)
        expected = expected.to(dtype).double() * weight.double() * torch.nn.functional.silu(z)
        out = x if in_place else torch.full_like(x, POISON)
        p = up.GatedNorm(
            dtype=up.DTYPES[dtype], rows=rows, heads=heads, head_dim=head_dim, eps=1e-6, input=x, input_row_stride=heads * head_dim,
            gate=both, gate_row_stride=both.shape[1], weight=weight, output=out, output_row_stride=heads * head_dim,
        )
        self.backend.normalise_gated(p)
        error = relative_error(out.reshape(expected.shape), expected)
        self.report("gated norm", f"{rows} rows heads {heads} d {head_dim} {dtype} in place {in_place}", error, LIMIT[dtype] / 2)
