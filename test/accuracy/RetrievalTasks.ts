/** Statements to hide in a text and a question about them, of the kinds that the needle models were trained for. */
export interface RetrievalTask {
  /** In the order in which the text has them. */
  readonly statements: ReadonlyArray<string>
  readonly question: string
  readonly answer: string
}

export const taskKinds = ["number", "code", "place", "list", "chain"] as const
export type TaskKind = (typeof taskKinds)[number]

/** Words and names of a text, to call secrets and people by. */
export interface Lexicon {
  readonly words: ReadonlyArray<string>
  readonly names: ReadonlyArray<string>
}

export const lexiconOf = (text: string): Lexicon => ({
  words: [...new Set(text.match(/\b[a-z]{4,9}\b/g))],
  names: [...new Set(text.match(/\b[A-Z][a-z]{2,7}\b/g))],
})

/** `random` gives numbers in [0, 1). */
export const makeTask = (kind: TaskKind, lexicon: Lexicon, random: () => number): RetrievalTask => {
  const pick = <A>(list: ArrayLike<A>): A => list[Math.floor(random() * list.length)]!
  const string = (alphabet: string, length: number) => Array.from({ length }, () => pick(alphabet)).join("")
  const key = `${pick(lexicon.words)} ${pick(lexicon.words)}`
  switch (kind) {
    case "number": {
      const answer = string(digits, 7)
      const statements = [` The special magic number for ${key} is ${answer}.`]
      return { statements, question: `What is the special magic number for ${key}?`, answer }
    }
    case "code": {
      const answer = string(`${digits}abcdef`, 8)
      return {
        statements: [` The access code of ${key} is ${answer}.`],
        question: `What is the access code of ${key}?`,
        answer,
      }
    }
    case "place": {
      const person = `${pick(lexicon.names)} ${pick(lexicon.names)}`
      const answer = pick(lexicon.names)
      return { statements: [` ${person} lives in ${answer}.`], question: `Where does ${person} live?`, answer }
    }
    case "list": {
      const values = Array.from({ length: 3 }, () => string(digits, 5))
      const statements = values.map((value) => ` One of the tokens of ${key} is ${value}.`)
      return { statements, question: `What are the tokens of ${key}?`, answer: values.join(", ") }
    }
    case "chain": {
      const [first, second] = [string(letters, 3), string(letters, 3)]
      const answer = string(digits, 5)
      const statements = [` VAR ${first} = ${answer}.`, ` VAR ${second} = VAR ${first}.`]
      return { statements, question: `What is the value of VAR ${second}?`, answer }
    }
  }
}

const digits = "0123456789"
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

/**
 * A prompt of exactly `length` tokens: a piece of the text with the task's statements in random places, those of
 * `distractors` other tasks among them, and the question at its end. Every piece is encoded on its own, as in training.
 */
export const makePrompt = (
  task: RetrievalTask,
  distractors: ReadonlyArray<RetrievalTask>,
  text: Int32Array,
  length: number,
  encode: (text: string) => ArrayLike<number>,
  random: () => number,
): Int32Array => {
  const hidden = [task, ...distractors]
    .flatMap(({ statements }) => {
      const places = statements.map(random).toSorted((a, b) => a - b)
      return statements.map((statement, i) => ({ place: places[i]!, tokens: encode(statement) }))
    })
    .toSorted((a, b) => a.place - b.place)
  const question = encode(`\nQuestion: ${task.question}\nAnswer:`)
  const body = length - question.length - hidden.reduce((sum, { tokens }) => sum + tokens.length, 0)
  if (body < 0 || body > text.length)
    throw new RangeError(`${length} tokens need ${body} of text, there are ${text.length}`)
  const start = Math.floor(random() * (text.length - body + 1))
  const prompt = new Int32Array(length)
  let at = 0
  let read = 0
  const copyText = (until: number) => {
    prompt.set(text.subarray(start + read, start + until), at)
    at += until - read
    read = until
  }
  for (const { place, tokens } of hidden) {
    copyText(Math.floor(place * body))
    prompt.set(tokens, at)
    at += tokens.length
  }
  copyText(body)
  prompt.set(question, at)
  return prompt
}
