/**
 * Defects that a scheduler like this one has had, each planted in ours: the swarm must find it within its first seeds, and cut the
 * scenario that shows it down to something small. A swarm that finds nothing proves nothing.
 */
import { CachedWindows } from "@uniprefill/scheduler/CachedWindows"
import { Levels } from "@uniprefill/scheduler/Levels"
import { Memory } from "@uniprefill/scheduler/Memory"
import { PrefixTree } from "@uniprefill/scheduler/PrefixTree"
import { PrefixCache } from "@uniprefill/scheduler/PrefixCache"
import { Ranking } from "@uniprefill/scheduler/Ranking"
import { Request } from "@uniprefill/scheduler/Request"
import { PrefillStage } from "@uniprefill/scheduler/PrefillStage"
import { Progress } from "@uniprefill/scheduler/Progress"
import { Commit } from "@uniprefill/scheduler/Commit"
import { Departures } from "@uniprefill/scheduler/Departures"
import { DecodeSet } from "@uniprefill/scheduler/DecodeSet"
import { StepBudget } from "@uniprefill/scheduler/StepBudget"
import type { Tenant } from "@uniprefill/scheduler/Tenants"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { ServingState } from "@uniprefill/scheduler/ServingState"
import { SlabPool } from "@uniprefill/scheduler/SlabPool"
import { Turns } from "@uniprefill/scheduler/Turns"
import { StateSnapshots } from "@uniprefill/scheduler/StateSnapshots"
import { TokenPlaces } from "@uniprefill/scheduler/TokenPlaces"
import { afterEach, expect, it, vi } from "vitest"
import { failureOf, runScenario, shrink } from "./Swarm.ts"
import { drawScenario } from "./SwarmScenario.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

/** Replaces a method, private ones included; the replacement gets the original. */
const plant = (
  target: object,
  name: string,
  replacement: (this: any, original: (...args: Array<any>) => any, ...args: Array<any>) => unknown,
): void => {
  const inside = target as Record<string, (...args: Array<any>) => any>
  const original = inside[name]!
  vi.spyOn(inside, name).mockImplementation(function (this: unknown, ...args) {
    return replacement.call(this, (...given) => original.apply(this, given), ...args)
  })
}

/** Seeds that a mutant may take to be found, and requests of the scenario that shows it. */
const seeds = 500
const most = 6

const mutants: Readonly<Record<string, () => void>> = {
  "slabs released before the step in flight has ended": () => plant(ServingState.prototype, "isInFlight", () => false),

  "a slab given back in a plan and granted again by the same one": () =>
    plant(SlabPool.prototype, "release", function (original, slabs, first, end) {
      original(slabs, first, end, 0)
    }),

  "pages published before the step that computes them has committed": () =>
    plant(PrefillStage.prototype, "addItem", function (original, request, ...rest) {
      original(request, ...rest)
      if (request.progress.segment === 0 && request.holdings.pageKeys.length > 0)
        this.state.memory.publish(request, request.progress.computedRows)
    }),

  "a fork that shares the page that both write to: no copy-on-write": () =>
    plant(Memory.prototype, "fork", function (original, leader, fork, plan) {
      const grow = this.grow.bind(this)
      this.grow = (request: Request, t: number) => {
        const source = leader.holdings.tables[t]
        for (let i = request.holdings.tables[t]!.length; i < source.length; i++) {
          this.pool.share(source.data, i, i + 1)
          request.holdings.tables[t]!.push(source.data[i])
          plan.maps.push3(fork.slot, t, source.data[i])
        }
      }
      original(leader, fork, plan)
      this.grow = grow
      plan.copies.clear()
    }),

  "a fork whose pages are given back with its leader's": () => plant(SlabPool.prototype, "share", () => {}),

  "a prefix gone on from without its window or states": () => plant(PrefixCache.prototype, "canResume", () => true),

  "a copy of states that belongs to the page before": () =>
    plant(StateSnapshots.prototype, "committed", function (original, ...args) {
      this.planned = this.planned.map((one: { page: number }) => ({ ...one, page: one.page - 1 }))
      original(...args)
      this.planned = this.planned.map((one: { page: number }) => ({ ...one, page: one.page + 1 }))
    }),

  "a segment that ends one row early": () =>
    plant(Progress.prototype, "prefillRows", function (original, segment) {
      const rows = original(segment)
      return segment > 0 && segment === this.segment && this.decodeRows === 0 && rows < this.keptRows[0]
        ? rows - 1
        : rows
    }),

  "selections made again on resume": () =>
    plant(Progress.prototype, "restart", function (original) {
      original()
      this.bitmaps.length = 0
      this.keptRows.length = 1
    }),

  "reservations not subtracted at admission": () =>
    vi.spyOn(Memory.prototype, "unreserved", "get").mockImplementation(function (this: Memory) {
      return this.available
    }),

  "an unfair victim: the oldest, protected or not": () =>
    plant(Ranking.prototype, "victimFor", (_original, request, { slots }) => {
      const running = slots.requests.filter(
        (one: Request | null) => one !== null && !one.flight.leaving && one.phase !== "fork",
      )
      return running.reduce((a: Request | null, b: Request) => (a === null || b.id < a.id ? b : a), null) ?? request
    }),

  "a window freed by the wrong index": () =>
    plant(Memory.prototype, "slide", function (original, request, table, nextRow, plan) {
      original(request, table, nextRow + this.layout.pageSize, plan)
    }),

  "a kept set applied one step late": () =>
    plant(Commit.prototype, "selections", function (original, result, sink) {
      const late = this.late
      this.late = { selections: { data: result.selections.data.slice(), length: result.selections.length } }
      if (late !== undefined) original(late, sink)
    }),

  "carries kept after they are read": () =>
    plant(Memory.prototype, "trim", function (original, request, table, pages) {
      if (this.layout.tables[table].kind !== "carry") original(request, table, pages)
    }),

  "output pages of a prompt that drops, cached without their carry": () =>
    plant(Memory.prototype, "holdsOutput", function (_original, _request, table) {
      return this.layout.tables[table].kind !== "carry"
    }),

  "a cached page evicted while a request uses it": () =>
    plant(PrefixTree.prototype, "acquire", (_original, page) => {
      page.users++
    }),

  "a protected request that is not served first": () => plant(Ranking.prototype, "isProtected", () => false),

  "pages of the next decode row granted a row late": () =>
    plant(Memory.prototype, "grow", function (original, request, table, rows, plan) {
      original(request, table, request.phase === "decode" ? rows - 1 : rows, plan)
    }),

  "a budget that ignores the decodes beside": () =>
    plant(PrefillStage.prototype, "plan", function (original, ...args) {
      const { load } = this.state
      const { decodeRows } = load
      load.decodeRows = 0
      original(...args)
      load.decodeRows = decodeRows
    }),

  "protection lost on preemption": () =>
    plant(Request.prototype, "restart", function (original) {
      original()
      this.account.bypasses = 0
      this.account.preemptions = 0
    }),

  "windows never given back while decoding": () => plant(Memory.prototype, "slideDecode", () => {}),

  "windows given back one row early": () =>
    plant(Memory.prototype, "slide", function (original, request, table, nextRow, frees) {
      original(request, table, nextRow + 1, frees)
    }),

  "chunks that are no multiples of 64 rows": () =>
    plant(PrefillStage.prototype, "limitsFor", (original, request) => {
      const limits = original(request)
      return { ...limits, cut: Math.min(limits.cut, 100) }
    }),

  "a chunk that was refused, left in the load": () =>
    plant(StepBudget.prototype, "pays", (original, load) => {
      const pays = original(load)
      if (!pays) load.addRows(1, 0, 0, 64, 64, 0)
      return pays
    }),

  "output that its tenant is not charged for": () =>
    plant(Commit.prototype, "tokens", function (original, ...args) {
      const tenants: ReadonlyArray<Tenant> = [...this.state.tenants.all]
      const before = tenants.map(({ served }) => served)
      original(...args)
      for (const [i, tenant] of tenants.entries()) tenant.served = before[i]!
    }),

  "a place among the tokens kept by one that has left": () => plant(TokenPlaces.prototype, "leave", () => {}),

  "of victims alike the first": () =>
    plant(Ranking.prototype, "isBehind", (_original, request, other, guard) =>
      request === guard || other === guard ? other === guard : request.id < other.id,
    ),

  "keys of one that leaves the decodes, still counted": () => plant(StepLoad.prototype, "leaveDecode", () => {}),

  "two steps in flight taken for one": () =>
    plant(ServingState.prototype, "isInFlight", function (original, request) {
      return original(request) && request.flight.lastStep > this.committedStep + 1
    }),

  "a prompt that runs on beyond the rows of a step": () =>
    plant(PrefillStage.prototype, "limitsFor", (original, request) => ({
      ...original(request),
      rowsPerSegment: Number.POSITIVE_INFINITY,
    })),

  "an early decode whose kept rows are not counted when they are known": () =>
    plant(DecodeSet.prototype, "settleEarly", () => {}),

  "an idle server's budget while first tokens are awaited": () =>
    plant(StepBudget.prototype, "open", (original, load) => original(load, load.decodeRows > 0)),

  "a tenant charged again for a prompt that starts over": () =>
    plant(PrefillStage.prototype, "admit", (original, request, ...args) => {
      const admitted = original(request, ...args)
      if (admitted && request.account.preemptions > 0) request.account.tenant.served += request.promptLength
      return admitted
    }),

  "slots that are never closed": () =>
    plant(Departures.prototype, "planCloses", (original, plan) => {
      original(plan)
      plan.closes.clear()
    }),

  "forks that do not know what their leader dropped": () => plant(Progress.prototype, "adopt", () => {}),

  "no headroom at admission": () => plant(PrefillStage.prototype, "headroomFor", () => 0),

  "a priority that still counts those who wait no longer": () => plant(Levels.prototype, "remove", () => {}),

  "a budget that stays what it was when it is changed": () =>
    plant(StepBudget.prototype, "configure", function (original, config) {
      if (this.measure === undefined) original(config)
    }),

  "turns of the policy that was in force at first": () =>
    plant(Turns.prototype, "configure", function (original, config) {
      if (!("begun" in this)) original(config)
      this.begun = true
    }),

  "bypasses that nobody counts": () => plant(PrefillStage.prototype, "countBypasses", () => {}),

  "a front that is passed over for ever": () => plant(Ranking.prototype, "protectedFront", () => null),

  "a front that is still the one whose first token is computed": () =>
    plant(Ranking.prototype, "front", (_original, { waiting, prefilling }, now) => {
      const oldest = [...waiting, ...prefilling].reduce((a, b) => (a === null || b.id < a.id ? b : a), null)
      if (oldest !== null && oldest.account.frontSinceMicros < 0) oldest.account.frontSinceMicros = now
      return oldest
    }),

  "chunks of 64 rows where larger ones are asked for": () =>
    plant(PrefillStage.prototype, "limitsFor", (original, request) => ({ ...original(request), chunkRows: 64 })),

  "slabs of the cache that forks count as their own": () =>
    plant(SlabPool.prototype, "share", (original, slabs, _first, end) => original(slabs, 0, end)),

  "pages of forks given back as if nobody else had them": () =>
    plant(Memory.prototype, "fork", (original, leader, fork, plan) => {
      original(leader, fork, plan)
      leader.holdings.isForked = fork.holdings.isForked = false
    }),

  "a turn that is over as soon as it has begun": () =>
    plant(Turns.prototype, "hasSettled", (_original, { phase }) => phase === "decode"),

  "a turn that one keeps who gave way": () =>
    plant(Turns.prototype, "giveUp", (original, request) => {
      if (request.endReason !== null) original(request)
    }),

  "a turn that one keeps who has ended": () =>
    plant(Turns.prototype, "giveUp", (original, request) => {
      if (request.endReason === null) original(request)
    }),

  "turns taken whatever computing again takes": () => plant(Turns.prototype, "resume", () => {}),

  "windows that tables have given back, kept as if they were read": () =>
    plant(PrefixTree.prototype, "unread", () => {}),

  "a fork that is no reader of its leader's windows": () => plant(CachedWindows.prototype, "share", () => {}),
}

/** The violation that each causes: one found by anything else is not found. */
const violations: Readonly<Record<keyof typeof mutants, RegExp>> = {
  "slabs released before the step in flight has ended": /a token belongs to an open slot|gets token/,
  "a slab given back in a plan and granted again by the same one": /is not free/,
  "pages published before the step that computes them has committed": /neither the cache nor a table holds it/,
  "a fork that shares the page that both write to: no copy-on-write": /a page that is written has one holder/,
  "a fork whose pages are given back with its leader's": /holders of a slab are counted/,
  "a prefix gone on from without its window or states": /state slot -1|state has absorbed/,
  "a copy of states that belongs to the page before": /state has absorbed/,
  "a segment that ends one row early": /prompts are cut at whole chunks|the keys of decodes are counted/,
  "selections made again on resume": /has forgotten a selection|has selected again/,
  "reservations not subtracted at admission": /reservations are covered/,
  "an unfair victim: the oldest, protected or not": /is nobody's victim|who makes room is the last in rank/,
  "a window freed by the wrong index": /is in page/,
  "a kept set applied one step late": /an item that completes a segment returns its selection/,
  "carries kept after they are read": /a table holds the pages of its rows/,
  "output pages of a prompt that drops, cached without their carry": /a table holds the pages of its rows/,
  "a cached page evicted while a request uses it": /idle slabs are counted/,
  "a protected request that is not served first": /is nobody's victim/,
  "pages of the next decode row granted a row late": /a table holds the pages of its rows/,
  "a budget that ignores the decodes beside": /prefill stays within the budget/,
  "protection lost on preemption": /is counted as passed over and preempted as often as it is/,
  "windows never given back while decoding": /a window's pages are given back/,
  "windows given back one row early": /is in page/,
  "chunks that are no multiples of 64 rows": /prompts are cut at whole chunks/,
  "a chunk that was refused, left in the load": /the step's load is what it holds/,
  "output that its tenant is not charged for": /a tenant is charged its output tokens/,
  "a place among the tokens kept by one that has left": /gets token|a tenant is charged its output tokens/,
  "of victims alike the first": /who makes room is the last in rank/,
  "keys of one that leaves the decodes, still counted": /the keys of decodes are counted/,
  "two steps in flight taken for one": /a token belongs to an open slot|gets token/,
  "a prompt that runs on beyond the rows of a step": /no segment of a step has more rows than a step may/,
  "an early decode whose kept rows are not counted when they are known": /the keys of decodes are counted/,
  "an idle server's budget while first tokens are awaited": /prefill stays within the budget/,
  "a tenant charged again for a prompt that starts over": /a tenant is charged its prompt tokens computed/,
  "slots that are never closed": /is open|slots open/,
  "forks that do not know what their leader dropped": /the keys of decodes are counted/,
  "no headroom at admission": /an admission leaves room for those that run/,
  "a priority that still counts those who wait no longer": /the queue of a priority is counted/,
  "a budget that stays what it was when it is changed": /prefill stays within the budget/,
  "turns of the policy that was in force at first": /is counted as passed over/,
  "bypasses that nobody counts": /is counted as passed over and preempted as often as it is/,
  "a front that is passed over for ever": /is passed over so often at most/,
  "a front that is still the one whose first token is computed":
    /is counted as passed over and preempted as often as it is/,
  "chunks of 64 rows where larger ones are asked for": /prompts are cut at whole chunks/,
  "slabs of the cache that forks count as their own": /holders of a slab are counted/,
  "pages of forks given back as if nobody else had them": /slabs are conserved|holders of a slab are counted/,
  "a turn that is over as soon as it has begun": /who makes room is the last in rank/,
  "a turn that one keeps who gave way": /a waiting request has given up its turn/,
  "a turn that one keeps who has ended": /idle with somebody's turn not over/,
  "turns taken whatever computing again takes": /who makes room is the last in rank|is counted as passed over/,
  "windows that tables have given back, kept as if they were read": /readers of a window are counted/,
  "a fork that is no reader of its leader's windows": /readers of a window are counted/,
}

/** A seed that shows each, tried first: only a mutant that the code has moved on from is searched for. */
const shownBy: Readonly<Record<keyof typeof mutants, number>> = {
  "slabs released before the step in flight has ended": 1,
  "a slab given back in a plan and granted again by the same one": 102,
  "pages published before the step that computes them has committed": 11,
  "a fork that shares the page that both write to: no copy-on-write": 7,
  "a fork whose pages are given back with its leader's": 4,
  "a prefix gone on from without its window or states": 34,
  "a copy of states that belongs to the page before": 58,
  "a segment that ends one row early": 1,
  "selections made again on resume": 41,
  "reservations not subtracted at admission": 1,
  "an unfair victim: the oldest, protected or not": 33,
  "a window freed by the wrong index": 19,
  "a kept set applied one step late": 1,
  "carries kept after they are read": 1,
  "output pages of a prompt that drops, cached without their carry": 1,
  "a cached page evicted while a request uses it": 6,
  "a protected request that is not served first": 105,
  "pages of the next decode row granted a row late": 2,
  "a budget that ignores the decodes beside": 15,
  "protection lost on preemption": 107,
  "windows never given back while decoding": 41,
  "windows given back one row early": 248,
  "chunks that are no multiples of 64 rows": 1,
  "a chunk that was refused, left in the load": 5,
  "output that its tenant is not charged for": 1,
  "a place among the tokens kept by one that has left": 28,
  "of victims alike the first": 52,
  "keys of one that leaves the decodes, still counted": 1,
  "two steps in flight taken for one": 1,
  "a prompt that runs on beyond the rows of a step": 1,
  "an early decode whose kept rows are not counted when they are known": 1,
  "an idle server's budget while first tokens are awaited": 65,
  "a tenant charged again for a prompt that starts over": 1,
  "slots that are never closed": 1,
  "forks that do not know what their leader dropped": 26,
  "no headroom at admission": 28,
  "a priority that still counts those who wait no longer": 1,
  "a budget that stays what it was when it is changed": 55,
  "turns of the policy that was in force at first": 33,
  "bypasses that nobody counts": 41,
  "a front that is passed over for ever": 41,
  "a front that is still the one whose first token is computed": 19,
  "chunks of 64 rows where larger ones are asked for": 2,
  "slabs of the cache that forks count as their own": 19,
  "pages of forks given back as if nobody else had them": 66,
  "a turn that is over as soon as it has begun": 63,
  "a turn that one keeps who gave way": 181,
  "a turn that one keeps who has ended": 496,
  "turns taken whatever computing again takes": 96,
  "windows that tables have given back, kept as if they were read": 19,
  "a fork that is no reader of its leader's windows": 19,
}

it("without a mutant the same seeds hold", () => {
  for (let seed = 1; seed <= 20; seed++) expect(failureOf(drawScenario(seed))).toBeNull()
})

it.each(Object.keys(mutants))("%s: is found by what it breaks, and shown in a small scenario", (name) => {
  mutants[name]!()
  const violation = violations[name]!
  const large: Array<number> = []
  const known = shownBy[name]!
  // Some seeds cannot be cut down far, or break something else on the way: the next one that fails can.
  const others = Array.from({ length: seeds }, (_, i) => i + 1).filter((seed) => seed !== known)
  for (const seed of [known, ...others]) {
    if (large.length === 8) break
    if (!violation.test(failureOf(drawScenario(seed)) ?? "")) continue
    const { scenario, message } = shrink(drawScenario(seed))
    if (scenario.requests.length > most || !violation.test(message)) {
      large.push(seed)
      continue
    }
    expect(() => runScenario(scenario)).toThrow(violation)
    if (seed !== known) console.log(`"${name}" is shown by seed ${seed}, no longer by ${known}`)
    return
  }
  expect.fail(large.length === 0 ? `not found in ${seeds} seeds` : `seeds ${large.join(", ")} stay large`)
})
