import { blockCount, keptRows, type SelectionShape } from "@uniprefill/model/Selection"
import { SelectionFlag } from "@uniprefill/scheduler/StepResult"
import { RecordedSelections, type RecordedPrompt, type SelectionRows } from "../model/RecordedSelections.ts"
import { ScenarioError } from "./ScenarioFields.ts"

/** What of a recording is read here; its other lines and fields are the executor's and replay's. */
interface Header {
  readonly format: unknown
  readonly version: unknown
  readonly schedule?: SelectionRows & { readonly rule: unknown; readonly dropLayers: ReadonlyArray<unknown> }
}
interface Event {
  readonly e: unknown
  readonly submission?: { readonly promptLength: number; readonly drops: boolean }
  readonly selections?: ReadonlyArray<number>
}

/** A prompt in a slot, while its selections come. */
interface Chain {
  readonly bitmaps: Array<Uint32Array>
  /** Everything was kept because scores were not finite: says nothing of the model's choice. */
  fallback: boolean
}

/**
 * The selections in a recorded run (`*.recording.jsonl.gz`, unpacked): those of every prompt that went through all drop
 * layers, once however often it was preempted. Needs no scheduler, so a recording of another build will do.
 *
 * A recording does not say which prompt is in which slot; the bitmap does: under the rule `exclusive` a set's last block is
 * always set, so its number of blocks is known, and a prompt that was submitted with as many is looked for. Fails with
 * ScenarioError naming file and line.
 */
export const decodeRecordedSelections = (file: string, text: string): RecordedSelections => {
  const lines = text.split("\n").filter((line) => line !== "")
  const parse = (line: string, number: number): Record<string, unknown> => {
    try {
      return JSON.parse(line) as Record<string, unknown>
    } catch {
      throw new ScenarioError(`${file} line ${number}: not JSON: the file may have been cut off`)
    }
  }
  const { format, version, schedule } = parse(lines[0] ?? "", 1) as unknown as Header
  if (format !== "uniprefill-recording" || ![1, 2].includes(version as number) || schedule === undefined) {
    throw new ScenarioError(
      `${file} line 1: format and version are ${JSON.stringify([format, version])}, expected ["uniprefill-recording", 2]`,
    )
  }
  if (schedule.rule !== "exclusive" || schedule.lastQ < schedule.block) {
    throw new ScenarioError(
      `${file} line 1: selections by the rule ${String(schedule.rule)} with lastQ ${schedule.lastQ} and blocks of ${schedule.block} do not tell a prompt's length; exclusive ones with lastQ of at least a block do`,
    )
  }
  const drops = schedule.dropLayers.length
  const submitted = new Set<number>()
  const chains = new Map<number, Chain>()
  const prompts: Array<RecordedPrompt> = []
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i]!
    if (!line.includes('"submit"') && !line.includes('"done"')) continue
    const { e, submission, selections = [] } = parse(line, i + 1) as unknown as Event
    if (e === "submit" && submission?.drops === true) submitted.add(submission.promptLength)
    if (e !== "done") continue
    for (let at = 0; at < selections.length; at += 4 + selections[at + 3]!) {
      const [slot, segment, flags, words] = selections.slice(at, at + 4) as [number, number, number, number]
      const chain = segment === 0 ? { bitmaps: [], fallback: false } : chains.get(slot)
      if (chain === undefined || chain.bitmaps.length !== segment) {
        throw new ScenarioError(`${file} line ${i + 1}: slot ${slot} selects after segment ${segment} out of turn`)
      }
      chains.set(slot, chain)
      chain.bitmaps.push(Uint32Array.from(selections.slice(at + 4, at + 4 + words)))
      chain.fallback ||= (flags & SelectionFlag.fallback) !== 0
      // A prompt that was preempted later has its selections applied again: it is known already.
      if (segment + 1 < drops || chain.fallback || (flags & SelectionFlag.replayed) !== 0) continue
      const promptTokens = lengthOf(chain.bitmaps, schedule, submitted)
      if (promptTokens === undefined) {
        throw new ScenarioError(`${file} line ${i + 1}: the selections of slot ${slot} fit no prompt submitted before`)
      }
      prompts.push({ promptTokens, bitmaps: chain.bitmaps })
    }
  }
  if (prompts.length === 0) {
    throw new ScenarioError(`${file} holds no selections: no prompt of the recorded run dropped anything`)
  }
  return new RecordedSelections(schedule, prompts)
}

/** The submitted length whose sets have as many blocks as the bitmaps: all that fit differ within a block. */
const lengthOf = (
  bitmaps: ReadonlyArray<Uint32Array>,
  { block, sink, lastQ }: SelectionRows,
  submitted: ReadonlySet<number>,
): number | undefined => {
  for (const promptTokens of submitted) {
    let shape: SelectionShape = { rows: promptTokens, block, sink, lastQ }
    const fits = bitmaps.every((bitmap) => {
      if (blocksOf(bitmap) !== blockCount(shape)) return false
      shape = { ...shape, rows: keptRows(bitmap, shape) }
      return true
    })
    if (fits) return promptTokens
  }
  return undefined
}

/** The last block set, and those before it. */
const blocksOf = (bitmap: Uint32Array): number => {
  let word = bitmap.length - 1
  while (word > 0 && bitmap[word] === 0) word--
  return word * 32 + 32 - Math.clz32(bitmap[word] ?? 0)
}
