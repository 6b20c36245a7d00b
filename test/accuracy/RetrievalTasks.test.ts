import { uniformNumbers } from "@uniprefill/executor/reference/ReferenceModel"
import { describe, expect, it } from "vitest"
import { lexiconOf, makePrompt, makeTask, taskKinds } from "./RetrievalTasks.ts"

const lexicon = lexiconOf("quiet river of London, Paris and Rome; over many hills")
const encode = (text: string) => Array.from(text, (character) => character.charCodeAt(0))
const decode = (tokens: Int32Array) => String.fromCharCode(...tokens)

describe("retrieval tasks", () => {
  it.each(taskKinds)("%s: the statements hold the answer and what is asked for", (kind) => {
    const random = uniformNumbers(3)
    const { statements, question, answer } = makeTask(kind, lexicon, random)
    const said = statements.join("")
    for (const part of answer.split(", ")) expect(said).toContain(part)
    const asked = /(?:for|of|does) (?:VAR )?(.*?)(?: live)?\?$/.exec(question)![1]!
    expect(said).toContain(asked)
  })

  it("hides every statement once, in order, in a prompt of the length asked for", () => {
    const random = uniformNumbers(5)
    const text = Int32Array.from({ length: 5000 }, () => 46)
    const task = makeTask("list", lexicon, random)
    const others = taskKinds.map((kind) => makeTask(kind, lexicon, random))
    const prompt = decode(makePrompt(task, others, text, 3000, encode, random))
    expect(prompt).toHaveLength(3000)
    for (const statement of [task, ...others].flatMap(({ statements }) => statements)) {
      expect(prompt.split(statement)).toHaveLength(2)
    }
    const places = task.statements.map((statement) => prompt.indexOf(statement))
    expect(places).toEqual(places.toSorted((a, b) => a - b))
    expect(prompt.endsWith(`\nQuestion: ${task.question}\nAnswer:`)).toBe(true)
  })

  it("says when the text is too short", () => {
    const random = uniformNumbers(1)
    const make = () => makePrompt(makeTask("number", lexicon, random), [], new Int32Array(10), 3000, encode, random)
    expect(make).toThrow(/3000 tokens need 28\d\d of text, there are 10/)
  })
})
