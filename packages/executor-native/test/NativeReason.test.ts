import { readFileSync } from "node:fs"
import { ExecutorError, ExecutorReason } from "@uniprefill/executor/contract/Executor"
import { expect, test } from "vitest"
import { reasonOfStatus, toExecutorError } from "@uniprefill/executor-native/NativeReason"

test("every status of the C header has a reason, and every reason a status", () => {
  const header = readFileSync(new URL("../../../native/include/uniprefill/operators.h", import.meta.url), "utf8")
  const body = /typedef enum up_status \{([^}]*)\}/.exec(header)![1]!
  const statuses = [...body.matchAll(/(UP_\w+) = \d+/g)].map((match) => match[1]!)
  expect(statuses.length).toBe(10)
  expect(Object.keys(reasonOfStatus).sort()).toEqual(statuses.filter((status) => status !== "UP_OK").sort())
  expect(Object.values(reasonOfStatus).sort()).toEqual([...ExecutorReason.literals].sort())
})

test("what the library throws keeps its detail, and its phase where that says more", () => {
  const failure = Object.assign(new Error("up_runner_wait: check plan: items[0]: slot 9 of 4"), {
    status: "UP_INVALID_PLAN",
    operation: "up_runner_wait",
    phase: "check plan",
    detail: "items[0]: slot 9 of 4",
  })
  const error = toExecutorError("step 12", failure)
  expect(error).toBeInstanceOf(ExecutorError)
  expect(error.reason).toBe("InvalidPlan")
  expect(error.message).toBe("step 12: items[0]: slot 9 of 4")
  const corrupt = toExecutorError("load x", Object.assign(failure, { status: "UP_CORRUPT_FILE", phase: "read header" }))
  expect(corrupt.message).toBe("load x: read header: items[0]: slot 9 of 4")
  expect(toExecutorError("x", Object.assign(failure, { status: "UP_SOMETHING_NEW" })).reason).toBe("Internal")
  expect(toExecutorError("open slot 1", new TypeError("tokens: an Int32Array was expected")).reason).toBe(
    "InvalidArgument",
  )
  expect(toExecutorError("x", error)).toBe(error)
})
