import { plainly } from "@uniprefill/units/Plainly"
import { describe, expect, it } from "vitest"

describe("a message for people", () => {
  it.each([
    [
      "a.yaml: cannot be read: ENOENT: no such file or directory, open 'a.yaml'",
      "a.yaml: cannot be read: no such file or directory",
    ],
    ["/x: cannot be read: EISDIR: illegal operation on a directory, read", "/x: cannot be read: it is a directory"],
    ["x: EACCES: permission denied, open '/a, b'", "x: permission denied"],
    ["x: EXDEV: cross-device link not permitted, rename 'a' -> 'b'", "x: cross-device link not permitted"],
    ["a.gz: incorrect header check", "a.gz: not gzip data"],
    ["t.csv:1: not a known trace: \u001b[2J\u0000", "t.csv:1: not a known trace: \ufffd[2J\ufffd"],
    ["x: EACCES: permission denied, open '/it's here'", "x: permission denied"],
    ["policy p threw ERROR: the queue is empty, got 5", "policy p threw ERROR: the queue is empty, got 5"],
    ["EXPECTED: a, b and c", "EXPECTED: a, b and c"],
    ["two\n\tlines", "two\n\tlines"],
  ])("%j has no codes, no call and nothing that moves a cursor", (message, expected) => {
    expect(plainly(message)).toBe(expected)
  })
})
