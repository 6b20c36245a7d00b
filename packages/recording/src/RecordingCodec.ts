import { decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { type Section as SectionName, sections } from "@uniprefill/scheduler/StepPlan"
import { Effect, Schema } from "effect"
import type { RecordedEvent, RecordingHeader } from "./Recording.ts"

/** Text that is not a recording: which line, and what is wrong with it. */
export class RecordingError extends Error {
  constructor(line: number, detail: string) {
    super(`line ${line}: ${detail}`)
    this.name = "RecordingError"
  }
}

/** One line of a recording, without its end. */
export const encodeLine = (value: RecordingHeader | RecordedEvent): string => JSON.stringify(value)

export interface Recording {
  readonly header: RecordingHeader
  readonly events: ReadonlyArray<RecordedEvent>
}

/** Fails with {@link RecordingError}. */
export const decodeRecording = (text: string): Recording => {
  const lines = text.split("\n")
  if (lines.at(-1) === "") lines.pop()
  const header = decodeHeader(parse(lines[0] ?? "", 1))
  return { header, events: lines.slice(1).map((line, index) => decodeEvent(parse(line, index + 2), index + 2)) }
}

const parse = (line: string, number: number): unknown => {
  try {
    return JSON.parse(line)
  } catch {
    throw new RecordingError(number, line === "" ? "is empty" : "is not JSON: the file may have been cut off")
  }
}

const Count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Counts = Schema.Array(Count)
const Words = Schema.Array(Schema.Int)
const Section = Schema.optional(Schema.Tuple([Count, Schema.Int]))

const Event = Schema.Union([
  Schema.Struct({
    e: Schema.Literal("submit"),
    now: Schema.Int,
    submission: Schema.Struct({
      promptLength: Schema.Number,
      maxTokens: Schema.optional(Schema.Number),
      answers: Schema.optional(Schema.Number),
      drops: Schema.Boolean,
      fixedP: Schema.optional(Schema.Boolean),
      priority: Schema.optional(Schema.Number),
      tenant: Schema.optional(Schema.String),
      deadlineMicros: Schema.optional(Schema.Number),
      pageKeys: Schema.optional(Schema.Array(Schema.String)),
    }),
  }),
  Schema.Struct({ e: Schema.Literal("abort"), id: Count }),
  Schema.Struct({ e: Schema.Literal("finish"), id: Count }),
  Schema.Struct({ e: Schema.Literal("page"), id: Count, key: Schema.String }),
  Schema.Struct({ e: Schema.Literal("tick"), now: Schema.Int }),
  Schema.Struct({
    e: Schema.Literal("done"),
    step: Count,
    deviceMicros: Count,
    slots: Counts,
    flags: Counts,
    selections: Words,
    failures: Words,
  }),
  Schema.Struct({ e: Schema.Literal("failed") }),
  Schema.Struct({
    e: Schema.Literal("plan"),
    step: Count,
    sections: Schema.Struct(
      Object.fromEntries(sections.map((name) => [name, Section])) as Readonly<Record<SectionName, typeof Section>>,
    ),
  }),
])

const Limits = Schema.Struct({
  slabs: Count,
  slots: Count,
  stateSlots: Count,
  resumeEvery: Schema.optional(Count),
  chunkRows: Schema.optional(Count),
  sloP: Schema.optional(Schema.Finite),
  maxRowsPerStep: Count,
  stepBudgetMicros: Count,
  idleStepBudgetMicros: Count,
  maxPrefillWaitMicros: Count,
  protectAfter: Count,
  protectAfterMicros: Count,
  maxStepsInFlight: Schema.Literals([1, 2]),
  maxModelLen: Count,
  maxWaiting: Count,
  maxWaitingTokens: Count,
  prefillFloor: Schema.Finite,
  headroomTokens: Count,
  // Recordings from before answers took turns do not say so.
  maxPauseMicros: Count.pipe(Schema.withDecodingDefaultKey(Effect.succeed(0))),
  tenantShare: Schema.Finite,
})

const Layout = Schema.Struct({
  pageSize: Count,
  slabBytes: Count,
  layersPerSlab: Count,
  stateSlotBytes: Count,
  segments: Schema.Array(
    Schema.Struct({
      firstLayer: Count,
      lastLayer: Count,
      full: Schema.Int,
      sliding: Schema.Int,
      carry: Schema.Int,
    }),
  ),
  tables: Schema.Array(
    Schema.Struct({
      segment: Count,
      kind: Schema.Literals(["full", "sliding", "carry"]),
      layers: Counts,
      window: Count,
      slabsPerPage: Count,
      wastedBytesPerPage: Count,
    }),
  ),
})

const Schedule = Schema.Struct({
  dropLayers: Schema.Array(Schema.Struct({ layer: Count, p: Schema.Finite })),
  rule: Schema.Literals(["reference", "exclusive"]),
  block: Count,
  sink: Count,
  lastQ: Count,
  minPromptTokens: Count,
  windowBy: Schema.Literals(["kept", "original"]),
})

const Costs = Schema.Struct({
  calibration: Schema.Record(Schema.String, Schema.Unknown),
  link: Schema.NullOr(Schema.Record(Schema.String, Schema.Unknown)),
  work: Schema.Array(Schema.Record(Schema.String, Schema.Finite)),
  lastQ: Count,
  maxRowsPerStep: Count,
})

const Header = Schema.Struct({
  format: Schema.Literal("uniprefill-recording"),
  version: Schema.Literal(2),
  code: Schema.String,
  spec: Schema.Record(Schema.String, Schema.Unknown),
  schedule: Schedule,
  layout: Layout,
  costs: Costs,
  policy: Schema.Struct({ name: Schema.String, options: Schema.Record(Schema.String, Schema.Finite) }),
  limits: Limits,
})

const asEvent = Schema.decodeUnknownSync(Event)
const asHeader = Schema.decodeUnknownSync(Header)

const decodeEvent = (value: unknown, line: number): RecordedEvent => checked(line, () => asEvent(value))

const decodeHeader = (value: unknown): RecordingHeader => {
  const header = checked(1, () => asHeader(value))
  const calibration = checked(1, () => decodeCalibration(header.costs.calibration))
  // The other records of cost models are as their modules declare them: what reads them is what wrote them.
  return { ...header, costs: { ...header.costs, calibration } } as unknown as RecordingHeader
}

const checked = <A>(line: number, decode: () => A): A => {
  try {
    return decode()
  } catch (cause) {
    throw new RecordingError(line, cause instanceof Error ? cause.message.replaceAll("\n", "; ") : String(cause))
  }
}
