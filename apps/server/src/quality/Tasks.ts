/** Sentences to hide in a text and a question about them. */
export interface Task {
  readonly kind: TaskKind
  /** What the answer rests on, in the order in which the text has it. */
  readonly statements: ReadonlyArray<string>
  /** Like them, and about something else. */
  readonly decoys: ReadonlyArray<string>
  /** Before the text; empty but for questions that come first. */
  readonly opening: string
  /** After the text. */
  readonly closing: string
  /** Put between equal parts of the text, if any. */
  readonly turns: ReadonlyArray<string>
  readonly answer: string
}

/** What each kind asks for, as help and reports say it. The first five are what the needle models were trained for. */
export const taskNotes = {
  number: "one magic number",
  code: "one hexadecimal code",
  place: "where someone lives",
  list: "three values of one key",
  chain: "a variable that names another",
  keys: "one of nine magic numbers",
  first: "one magic number, the question before the text",
  turns: "one magic number, in a transcript of tool calls",
  common: "the word that is said most often",
  count: "how often something is said",
} as const

export type TaskKind = keyof typeof taskNotes

export const taskKinds = Object.keys(taskNotes) as ReadonlyArray<TaskKind>

/** What the needle models were trained for; also where distractors come from. */
export const trainedKinds = ["number", "code", "place", "list", "chain"] as const satisfies ReadonlyArray<TaskKind>

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
export const makeTask = (kind: TaskKind, lexicon: Lexicon, random: () => number): Task => {
  const pick = <A>(list: ArrayLike<A>): A => list[Math.floor(random() * list.length)]!
  const string = (alphabet: string, length: number) => Array.from({ length }, () => pick(alphabet)).join("")
  const newKey = () => `${pick(lexicon.words)} ${pick(lexicon.words)}`
  const key = newKey()
  const number = (of: string, value: string) => ` The special magic number for ${of} is ${value}.`
  const made = (
    statements: ReadonlyArray<string>,
    question: string,
    answer: string,
    more: Partial<Task> = {},
  ): Task => ({
    kind,
    statements,
    decoys: [],
    opening: "",
    closing: `\nQuestion: ${question}\nAnswer:`,
    turns: [],
    answer,
    ...more,
  })
  switch (kind) {
    case "number":
    case "keys":
    case "first":
    case "turns": {
      const answer = string(digits, 7)
      const question = `What is the special magic number for ${key}?`
      const more = {
        number: {},
        keys: { decoys: Array.from({ length: 8 }, () => number(newKey(), string(digits, 7))) },
        first: { opening: `Question: ${question}\n`, closing: "\nAnswer:" },
        turns: { turns: Array.from({ length: 8 }, (_, i) => `\nAgent: open("part ${i + 1}")\nTool: `) },
      }
      return made([number(key, answer)], question, answer, more[kind])
    }
    case "code": {
      const answer = string(`${digits}abcdef`, 8)
      return made([` The access code of ${key} is ${answer}.`], `What is the access code of ${key}?`, answer)
    }
    case "place": {
      const person = `${pick(lexicon.names)} ${pick(lexicon.names)}`
      const answer = pick(lexicon.names)
      return made([` ${person} lives in ${answer}.`], `Where does ${person} live?`, answer)
    }
    case "list": {
      const values = Array.from({ length: 3 }, () => string(digits, 5))
      const statements = values.map((value) => ` One of the tokens of ${key} is ${value}.`)
      return made(statements, `What are the tokens of ${key}?`, values.join(", "))
    }
    case "chain": {
      const [first, second] = [string(letters, 3), string(letters, 3)]
      const answer = string(digits, 5)
      const statements = [` VAR ${first} = ${answer}.`, ` VAR ${second} = VAR ${first}.`]
      return made(statements, `What is the value of VAR ${second}?`, answer)
    }
    case "common": {
      const said = (word: string) => ` The word of the day is ${word}.`
      const answer = pick(lexicon.words)
      const others = new Set(Array.from({ length: 6 }, () => pick(lexicon.words)))
      others.delete(answer)
      const decoys = [...others].flatMap((word) => [said(word), said(word)])
      return made(
        Array.from({ length: 8 }, () => said(answer)),
        "Which word of the day is said most often?",
        answer,
        { decoys },
      )
    }
    case "count": {
      const times = 2 + Math.floor(random() * 8)
      const statements = Array.from({ length: times }, () => ` A bell rings in ${key}.`)
      return made(statements, `How often does a bell ring in ${key}?`, String(times))
    }
  }
}

const digits = "0123456789"
const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

/** All texts of a task, each of which is encoded on its own, as in the needle models' training. */
export const piecesOf = (task: Task, distractors: ReadonlyArray<Task>): ReadonlyArray<string> => [
  ...[task, ...distractors].flatMap(({ statements }) => statements),
  ...task.decoys,
  ...task.turns,
  task.opening,
  task.closing,
]

export interface Prompt {
  readonly tokens: Int32Array
  /** Where the first statement that the answer rests on begins, a share of the prompt. */
  readonly depth: number
}

/**
 * A prompt of exactly `length` tokens: a piece of the text with the task's statements in random places, its decoys and the
 * statements of `distractors` among them, and its closing at the end. Fails with RangeError where the text is too short.
 */
export const makePrompt = (
  task: Task,
  distractors: ReadonlyArray<Task>,
  text: Int32Array,
  length: number,
  encode: (text: string) => ArrayLike<number>,
  random: () => number,
): Prompt => {
  const placed = (statements: ReadonlyArray<string>, isOwn: boolean) => {
    const places = statements.map(random).toSorted((a, b) => a - b)
    return statements.map((statement, i) => ({ place: places[i]!, tokens: encode(statement), isOwn }))
  }
  const hidden = [
    ...placed(task.statements, true),
    ...task.decoys.flatMap((decoy) => placed([decoy], false)),
    ...distractors.flatMap(({ statements }) => placed(statements, false)),
    ...task.turns.map((turn, i) => ({ place: i / task.turns.length, tokens: encode(turn), isOwn: false })),
  ].toSorted((a, b) => a.place - b.place)
  const [opening, closing] = [encode(task.opening), encode(task.closing)]
  const body = length - opening.length - closing.length - hidden.reduce((sum, { tokens }) => sum + tokens.length, 0)
  if (body < 0 || body > text.length)
    throw new RangeError(`${length} tokens need ${body} of text, there are ${text.length}`)
  const start = Math.floor(random() * (text.length - body + 1))
  const prompt = new Int32Array(length)
  prompt.set(opening)
  let at = opening.length
  let read = 0
  let first = -1
  const copyText = (until: number) => {
    prompt.set(text.subarray(start + read, start + until), at)
    at += until - read
    read = until
  }
  for (const { place, tokens, isOwn } of hidden) {
    copyText(Math.floor(place * body))
    if (isOwn && first < 0) first = at
    prompt.set(tokens, at)
    at += tokens.length
  }
  copyText(body)
  prompt.set(closing, at)
  return { tokens: prompt, depth: first / length }
}
