import type { ScenarioChange } from "@uniprefill/simulator/scenario/Scenario"
import type { Checked, Command, FieldSpec, Measured, Moment, Opened } from "../protocol/Protocol.ts"
import type { RunModel } from "../timeline/RunModel.ts"
import { type Draft, draftOf, firstDraft, missingFiles, scenarioOf, withValue } from "./Draft.ts"
import { decodeLink, encodeLink } from "./Link.ts"
import { Store } from "./Store.ts"
import {
  firstState,
  none,
  type Notice,
  type Run,
  type SeedStudy,
  type Selection,
  type StudioState,
  type View,
} from "./StudioState.ts"
import { CommandError, WorkerClient } from "./Worker.ts"

const draftKey = "uniprefill-studio-draft-1"

/** Runs that are kept at a time: each holds its checkpoints. */
export const maxRuns = 6

const checkDelayMs = 160

/** What a run is begun with. */
type Begun = Pick<Run, "title" | "scenario" | "files" | "recording" | "parent" | "expectedHash">

/** Everything that the page knows and does; components show it. */
export class Studio {
  readonly store = new Store<StudioState>(firstState)
  /** Asked what is not about a run. */
  private desk = new WorkerClient()
  private readonly clients = new Map<number, WorkerClient>()
  private readonly moments = new Map<string, Moment>()
  private looking = false
  private checkTimer = 0
  private checks = 0
  private nextId = 1
  private nextLetter = 0

  /** Takes up what the address or an earlier visit left. */
  async start(address: string): Promise<void> {
    const kept = readKeptDraft()
    if (kept !== null) this.store.set({ draft: kept })
    try {
      this.store.set({ fields: await this.desk.ask<ReadonlyArray<FieldSpec>>({ do: "describeFields" }) })
    } catch (error) {
      return this.store.set({ failure: messageOf(error) })
    }
    await this.follow(address)
    this.checkSoon(0)
  }

  /** Opens what a link holds; without one nothing happens. */
  async follow(address: string): Promise<void> {
    try {
      const linked = await decodeLink(address)
      if (linked === null) return
      this.replaceDraft(draftOf(linked.scenario), "The scenario of the link is open.")
      const missing = missingFiles(this.store.get().draft, this.store.get().files)
      if (missing.length > 0)
        return this.say("info", `The link names ${missing.join(", ")}: drop the file here, then run.`)
      const { step } = linked
      await this.run()
      if (step !== null) this.select({ step })
    } catch (error) {
      this.say("error", `${messageOf(error)}. Your own scenario is as it was.`)
    }
  }

  show(view: View): void {
    this.store.set({ view })
  }

  // ------------------------------------------------------------------------------------------------- the draft

  /** Sets a field; undefined: back to its default. */
  setField(path: string, value: unknown): void {
    this.setDraft(withValue(this.store.get().draft, path, value))
  }

  setDraft(draft: Draft): void {
    this.store.set({ draft })
    keepDraft(draft)
    this.checkSoon(checkDelayMs)
  }

  /** Another draft takes the place of the one at hand, which can be brought back. */
  replaceDraft(draft: Draft, said: string): void {
    const before = this.store.get().draft
    const isOwn =
      JSON.stringify(before) !== JSON.stringify(firstDraft) && JSON.stringify(before) !== JSON.stringify(draft)
    this.setDraft(draft)
    this.say("info", said, isOwn ? before : null)
  }

  private checkSoon(delay: number): void {
    window.clearTimeout(this.checkTimer)
    this.store.set({ isChecking: true })
    this.checkTimer = window.setTimeout(() => void this.check(), delay)
  }

  private async check(): Promise<void> {
    const number = ++this.checks
    const { draft, files } = this.store.get()
    try {
      const checked = await this.desk.ask<Checked>({ do: "check", scenario: scenarioOf(draft), files })
      if (number === this.checks) this.store.set({ checked, isChecking: false })
    } catch (error) {
      this.renewDesk()
      this.store.set({
        checked: { faults: [{ path: "", detail: messageOf(error) }], preview: null },
        isChecking: false,
      })
    }
  }

  /** A worker that failed is replaced: what was made on the page is on the page. */
  private renewDesk(): void {
    this.desk.close()
    this.desk = new WorkerClient()
  }

  /** Takes in dropped files, one after the other. */
  async open(dropped: ReadonlyArray<File>): Promise<void> {
    for (const file of dropped) {
      // Nothing can be run while a file is being read that may become the draft.
      window.clearTimeout(this.checkTimer)
      this.checks++
      this.store.set({ isChecking: true })
      try {
        const asked = this.desk.ask<Opened>({ do: "open", name: file.name, file })
        await this.take(file, await asked.finally(() => this.checkSoon(0)))
      } catch (error) {
        if (!(error instanceof CommandError)) this.renewDesk()
        this.say("error", messageOf(error))
      }
    }
  }

  private async take(file: File, opened: Opened): Promise<void> {
    const { draft, files } = this.store.get()
    switch (opened.kind) {
      case "scenario":
        this.show("scenario")
        return this.replaceDraft(draftOf(opened.scenario), `${file.name}: ${opened.note}.`)
      case "studio":
        this.store.set({ files: { ...files, ...opened.files } })
        this.replaceDraft(draftOf(opened.scenario), `${file.name}: ${opened.note}.`)
        return this.run(opened.hash)
      case "recording":
        return this.replay(file, opened.note)
      case "input": {
        this.store.set({ files: { ...files, [file.name]: file } })
        const values = { ...draft.values, ...opened.fields }
        // What was said of another trace does not hold of this one.
        if (opened.fields["workload.trace"] !== undefined)
          for (const path of ["workload.skip", "workload.requests"]) delete (values as Record<string, unknown>)[path]
        this.show("scenario")
        this.setDraft({ ...draft, values })
        return this.say("info", `${file.name}: ${opened.note}.`)
      }
    }
  }

  // ---------------------------------------------------------------------------------------------------- runs

  /** Runs the draft. */
  async run(expectedHash = ""): Promise<void> {
    const { draft, files } = this.store.get()
    const title = typeof draft.values["name"] === "string" ? draft.values["name"] : "unnamed"
    const scenario = scenarioOf(draft)
    await this.begin({ title, scenario, files, recording: null, parent: null, expectedHash })
  }

  private async replay(file: File, note: string): Promise<void> {
    await this.begin({ title: file.name, scenario: {}, files: {}, recording: file, parent: null, expectedHash: "" })
    this.say("info", `${file.name}: ${note}.`)
  }

  /** Makes a run that failed once more, in its place. */
  async again(run: Run): Promise<void> {
    this.closeRun(run.id)
    await this.begin(run)
  }

  /** The run of `parent` with one change more, from a step on. */
  async branch(parent: Run, step: number, change: ScenarioChange): Promise<void> {
    const before = (parent.scenario["changes"] ?? []) as ReadonlyArray<ScenarioChange>
    const scenario = { ...parent.scenario, changes: [...before, change] }
    const id = await this.begin({
      title: parent.title,
      scenario,
      files: parent.files,
      recording: null,
      parent: { id: parent.id, step, change },
      expectedHash: "",
    })
    const run = this.runOf(id)
    if (run?.status === "done") this.store.set({ current: id, other: parent.id, view: "compare", seeds: null })
  }

  private async begin({ title, scenario, files, recording, parent, expectedHash }: Begun): Promise<number> {
    const id = this.nextId++
    const client = new WorkerClient()
    this.clients.set(id, client)
    const run: Run = {
      title,
      scenario,
      files,
      recording,
      parent,
      expectedHash,
      id,
      letter: String.fromCharCode(65 + (this.nextLetter++ % 26)),
      status: "running",
      progress: null,
      model: null,
      error: "",
    }
    const { runs } = this.store.get()
    for (const old of runs.slice(0, Math.max(0, runs.length + 1 - maxRuns))) this.closeRun(old.id)
    this.store.set({
      runs: [...this.store.get().runs, run],
      current: id,
      selection: none,
      sight: null,
      view: "timeline",
    })
    const command: Command =
      recording === null ? { do: "run", scenario, files } : { do: "replay", name: recording.name, file: recording }
    try {
      const model = await client.ask<RunModel>(command, (progress) => this.change(id, { progress }))
      if (typeof model.result?.hash !== "string") throw new Error("the worker sent what is no run")
      this.change(id, { status: "done", model })
    } catch (error) {
      this.change(id, { status: "failed", error: messageOf(error) })
    }
    return id
  }

  stopRun(id: number): void {
    this.clients.get(id)?.stop()
  }

  closeRun(id: number): void {
    this.clients.get(id)?.close()
    this.clients.delete(id)
    const { runs, current, other, view } = this.store.get()
    const left = runs.filter((run) => run.id !== id)
    const next = current === id ? (left.at(-1)?.id ?? -1) : current
    this.store.set({
      runs: left,
      current: next,
      other: other === id ? -1 : other,
      ...(current === id ? { selection: none, sight: null } : {}),
      view: left.length === 0 && view !== "scenario" ? "scenario" : view,
    })
  }

  choose(id: number): void {
    const { current, other } = this.store.get()
    if (id === current) return
    this.store.set({ current: id, other: other === id ? current : other, selection: none, sight: null })
  }

  compareWith(id: number): void {
    this.store.set({ other: id, seeds: null })
  }

  runOf(id: number): Run | undefined {
    return this.store.get().runs.find((run) => run.id === id)
  }

  get current(): Run | undefined {
    return this.runOf(this.store.get().current)
  }

  private change(id: number, change: Partial<Run>): void {
    this.store.set({ runs: this.store.get().runs.map((run) => (run.id === id ? { ...run, ...change } : run)) })
  }

  // -------------------------------------------------------------------------------------------------- looking

  /** Looks at a step, or a request, or both. */
  select(change: Partial<Selection>): void {
    const { selection } = this.store.get()
    const model = this.current?.model
    if (model === undefined || model === null) return
    const { count } = model.result.timeline.steps
    const step = Math.min(count - 1, change.step ?? selection.step)
    this.store.set({ selection: { step, request: change.request ?? selection.request } })
    void this.look()
  }

  /** Brings the state of the selected step, one question at a time: what was selected meanwhile comes next. */
  private async look(): Promise<void> {
    if (this.looking) return
    this.looking = true
    for (;;) {
      const { current: run, selection, sight } = this.store.get()
      const isSeen = sight !== null && sight.run === run && equal(sight.selection, selection)
      if (isSeen || selection.step < 0) break
      await this.lookAt(run, selection)
    }
    this.looking = false
  }

  private async lookAt(run: number, selection: Selection): Promise<void> {
    const key = `${run}/${selection.step}/${selection.request}`
    const known = this.moments.get(key)
    if (known !== undefined) return this.store.set({ sight: { run, selection, moment: known, error: "", tookMs: 0 } })
    const began = performance.now()
    try {
      const moment = await this.clients.get(run)!.ask<Moment>({ do: "look", ...selection })
      this.remember(key, moment)
      this.store.set({ sight: { run, selection, moment, error: "", tookMs: performance.now() - began } })
    } catch (error) {
      this.store.set({ sight: { run, selection, moment: null, error: messageOf(error), tookMs: 0 } })
    }
  }

  private remember(key: string, moment: Moment): void {
    this.moments.set(key, moment)
    if (this.moments.size > 64) this.moments.delete(this.moments.keys().next().value!)
  }

  // ------------------------------------------------------------------------------------------------- figures

  /** Runs both scenarios with other seeds, so that their difference has an interval. */
  async studySeeds(base: Run, other: Run, seeds: number): Promise<void> {
    const [first, second] = [base.model?.result.summary, other.model?.result.summary]
    if (first === undefined || second === undefined || first === null || second === null) return
    const study: SeedStudy = { base: base.id, other: other.id, wanted: seeds, pairs: [[first, second]], error: "" }
    this.store.set({ seeds: study })
    const seed = base.model!.result.meta.seed
    try {
      for (let i = 1; i < seeds; i++) {
        const pair = await this.measureAll(
          [base, other].map((run) => ({ ...run, scenario: { ...run.scenario, seed: seed + i } })),
        )
        const now = this.store.get().seeds
        if (now === null || now.base !== base.id || now.other !== other.id) return
        this.store.set({ seeds: { ...now, pairs: [...now.pairs, [pair[0]!.summary, pair[1]!.summary]] } })
      }
    } catch (error) {
      this.store.set({ seeds: { ...this.store.get().seeds!, error: messageOf(error) } })
    }
  }

  /** The figures of scenarios, each simulated in a worker of its own, as many at a time as there are processors. */
  async measureAll(scenarios: ReadonlyArray<Pick<Run, "scenario" | "files">>): Promise<ReadonlyArray<Measured>> {
    const width = Math.max(1, Math.min(4, navigator.hardwareConcurrency - 1))
    const found: Array<Measured> = []
    let next = 0
    const work = async () => {
      const client = new WorkerClient()
      try {
        while (next < scenarios.length) {
          const at = next++
          const { scenario, files } = scenarios[at]!
          found[at] = await client.ask<Measured>({ do: "measure", scenario, files })
        }
      } finally {
        client.close()
      }
    }
    await Promise.all(Array.from({ length: Math.min(width, scenarios.length) }, work))
    return found
  }

  perfetto(run: Run): Promise<string> {
    return this.clients.get(run.id)!.ask<string>({ do: "perfetto" })
  }

  /** The address of this page with the scenario of a run, or the draft, in it. */
  async link(run: Run | undefined): Promise<string> {
    const { draft, selection } = this.store.get()
    const hash = await encodeLink({
      scenario: run?.scenario ?? scenarioOf(draft),
      step: run === undefined || selection.step < 0 ? null : selection.step,
    })
    return `${window.location.href.split("#")[0]!}#${hash}`
  }

  // ------------------------------------------------------------------------------------------------- notices

  say(kind: Notice["kind"], text: string, aside: Draft | null = null): void {
    const notice = { id: this.nextId++, kind, text, aside }
    this.store.set({ notices: [...this.store.get().notices.slice(-3), notice] })
    if (kind === "info" && aside === null) window.setTimeout(() => this.dismiss(notice.id), 8000)
  }

  dismiss(id: number): void {
    this.store.set({ notices: this.store.get().notices.filter((notice) => notice.id !== id) })
  }
}

const equal = (a: Selection, b: Selection): boolean => a.step === b.step && a.request === b.request

const messageOf = (error: unknown): string => {
  const message = error instanceof Error ? error.message : String(error)
  return error instanceof CommandError && !error.isUsers ? `a defect of this page: ${message}` : message
}

const keepDraft = (draft: Draft): void => {
  try {
    window.localStorage.setItem(draftKey, JSON.stringify(draft))
  } catch {
    // A browser that keeps nothing: the draft lives as long as the page.
  }
}

const readKeptDraft = (): Draft | null => {
  try {
    const text = window.localStorage.getItem(draftKey)
    const draft = text === null ? null : (JSON.parse(text) as Draft)
    return draft !== null && typeof draft.values === "object" && Array.isArray(draft.changes) ? draft : null
  } catch {
    return null
  }
}
