import { Random } from "@uniprefill/units/Random"
import { lexiconOf, makePrompt, makeTask, taskKinds, trainedKinds } from "uniprefill/quality/Tasks"
import { describe, expect, it } from "vitest"

const lexicon = lexiconOf("quiet river of London, Paris and Rome; over many hills with trees")
const numbersFrom = (seed: number) => {
  const random = new Random(seed, "tasks")
  return () => random.unit()
}
const encode = (text: string) => Array.from(text, (character) => character.charCodeAt(0))
const decode = (tokens: Int32Array) => String.fromCharCode(...tokens)

describe("tasks", () => {
  it.each(trainedKinds)("%s: the statements hold the answer and what is asked for", (kind) => {
    const { statements, closing, answer } = makeTask(kind, lexicon, numbersFrom(3))
    const said = statements.join("")
    for (const part of answer.split(", ")) expect(said).toContain(part)
    const asked = /(?:for|of|does) (?:VAR )?(.*?)(?: live)?\?\nAnswer:$/.exec(closing)![1]!
    expect(said).toContain(asked)
  })

  it.each(taskKinds)("%s: every statement stands in a prompt of the length asked for, in order", (kind) => {
    const random = numbersFrom(5)
    const text = Int32Array.from({ length: 5000 }, () => 46)
    const task = makeTask(kind, lexicon, random)
    const others = trainedKinds.map((other) => makeTask(other, lexicon, random))
    const { tokens, depth } = makePrompt(task, others, text, 4000, encode, random)
    const prompt = decode(tokens)
    expect(prompt).toHaveLength(4000)
    for (const statement of [...task.statements, ...task.decoys, ...others.flatMap((one) => one.statements)]) {
      expect(prompt).toContain(statement)
    }
    expect(prompt.startsWith(task.opening)).toBe(true)
    expect(prompt.endsWith(task.closing)).toBe(true)
    expect(Math.round(depth * 4000)).toBe(Math.min(...task.statements.map((one) => prompt.indexOf(one))))
    const places = task.turns.map((turn) => prompt.indexOf(turn))
    expect(places).toEqual(places.toSorted((a, b) => a - b))
  })

  it("asks for the word that is said most often, and for as many as are said", () => {
    for (let seed = 1; seed <= 20; seed++) {
      const common = makeTask("common", lexicon, numbersFrom(seed))
      const said = Map.groupBy([...common.statements, ...common.decoys], (statement) => statement)
      const ranked = [...said].toSorted(([, a], [, b]) => b.length - a.length)
      expect(ranked[0]![0]).toBe(` The word of the day is ${common.answer}.`)
      expect(ranked[0]![1].length).toBeGreaterThan(ranked[1]![1].length)
      const count = makeTask("count", lexicon, numbersFrom(seed))
      expect(count.statements).toHaveLength(Number(count.answer))
    }
  })

  it("puts a question first that is to come first, and no second time at the end", () => {
    const task = makeTask("first", lexicon, numbersFrom(2))
    expect(task.opening).toMatch(/^Question: What is the special magic number for/)
    expect(task.closing).toBe("\nAnswer:")
  })

  it("says when the text is too short", () => {
    const random = numbersFrom(1)
    const make = () => makePrompt(makeTask("number", lexicon, random), [], new Int32Array(10), 3000, encode, random)
    expect(make).toThrow(/3000 tokens need 28\d\d of text, there are 10/)
  })
})
