import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { executorCases, type Judge } from "./ExecutorCases.ts"
import { type Machine, machineKinds, openMachine } from "./Machine.ts"
import { equal, sameUpToAbort } from "./SameAnswer.ts"
import { cutDifference, floatsOf, teacherForced } from "./TeacherForcing.ts"

/** On the CPU every way of computing an answer gives the same bits, that of test/gpu/conformance.ts too. */
const bitwise: Judge = {
  same: async (machine, request, answer, alone) => {
    sameUpToAbort(answer, alone)
    const forced = await teacherForced(machine, request, answer.tokens, request.pQ32 === null ? [] : answer.bitmaps)
    equal("logits, forced", forced, answer.logits.map(floatsOf))
    if (request.pQ32 === null) return
    const { prompt, pQ32 } = request
    const cut = await cutDifference(machine, { prompt, pQ32 }, answer.bitmaps, 0.01)
    equal("selections that differ", cut.different, 0)
  },
  sameLogits: (logits, others) => equal("logits", logits, others),
}

describe.each(machineKinds)("the native executor on a %s model:", (kind) => {
  let machine: Machine
  beforeAll(async () => {
    machine = await openMachine("cpu", kind)
  })
  afterAll(() => machine.close())

  it.each(Object.entries(executorCases))("%s", async (_, run) => {
    await expect(run(machine, bitwise)).resolves.toBeUndefined()
  })
})
