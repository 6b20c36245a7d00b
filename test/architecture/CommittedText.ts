import { spawnSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { Violation } from "./Violation.ts"

/**
 * Checks what is committed, or would be: files that git tracks or does not ignore.
 *
 * Patterns are put together from pieces, so that this file is not its own violation.
 */
interface TextRule {
  readonly rule: string
  readonly applies: (file: string) => boolean
  readonly pattern: RegExp
  readonly message: string
}

const word = (...pieces: ReadonlyArray<string>) => pieces.join("")

const isTest = (file: string) => /\.test\.tsx?$/.test(file)

/** Weights, vocabularies and prose that the model is tried on: data, whose words are not ours. */
const isData = (file: string) => /\.(safetensors|png|gz|bin)$/.test(file) || /tokenizer[^/]*\.json$|\.txt$/.test(file)

const isProse = (file: string) => file === "LICENSE" || isData(file)

const rules: ReadonlyArray<TextRule> = [
  {
    rule: "local-path",
    applies: () => true,
    pattern: new RegExp(
      [word("(?<![\\w.-])/wo", "rk/"), word("/bash", "_jobs"), word("(?<!\\w)\\.lib", "rary/"), "/home/\\w+/"].join(
        "|",
      ),
    ),
    message: "a path of one machine",
  },
  {
    rule: "registry",
    applies: () => true,
    pattern: new RegExp(
      [
        word("https?://[^\\s\"'/]*(?:regis", "try|artifac", "tory|nex", "us|verdac", "cio)[^\\s\"'/]*"),
        word('"resol', 'ved": "https?:'),
        word("^regis", "try\\s*="),
        "https?://(?:10|192\\.168)\\.\\d",
      ].join("|"),
      "m",
    ),
    message: "the host of a package registry or a private network",
  },
  {
    rule: "unfinished",
    applies: (file) => file !== "package-lock.json",
    pattern: new RegExp(
      `\\b(?:${word("TO", "DO")}|${word("FIX", "ME")}|${word("XX", "X")})\\b|^\\s*[-*] \\[[ x]\\] `,
      "m",
    ),
    message: "a note to oneself; finish it, or open an issue",
  },
  {
    rule: "silenced-test",
    applies: isTest,
    pattern: new RegExp(
      `\\b(?:it|test|describe)(?:\\.\\w+)*\\.(?:${word("sk", "ip")}|${word("on", "ly")}|${word("to", "do")})\\(`,
    ),
    message: 'a test that does not run; where a tool is missing, skip with a reason: context.skip("no GPU")',
  },
  {
    rule: "silenced-check",
    applies: (file) => /\.(ts|tsx|mjs|js)$/.test(file),
    pattern: new RegExp(word("@ts-", "ignore") + "|" + word("@ts-", "nocheck")),
    message: "a type error hidden for good; use @ts-expect-error with a reason",
  },
]

/** Violations in one file's text. */
export const checkText = (file: string, text: string): ReadonlyArray<Violation> =>
  isProse(file)
    ? []
    : rules.flatMap(({ rule, applies, pattern, message }): ReadonlyArray<Violation> => {
        const match = applies(file) ? pattern.exec(text) : null
        if (match === null) return []
        const line = text.slice(0, match.index).split("\n").length
        return [{ rule, file, line, message: `${message}: ${match[0].trim()}` }]
      })

/** Longer files are read less well; each has a reason. */
export const maxLines = 500

export const longFileReasons: ReadonlyMap<string, string> = new Map([["package-lock.json", "written by npm"]])

const isHandWritten = (file: string) => /\.(ts|tsx|mjs|js|h|hpp|c|cc|cpp|cu|cuh|md|json|yaml|yml|cmake)$/.test(file)

export const checkLength = (file: string, text: string): ReadonlyArray<Violation> => {
  const lines = text.split("\n").length
  if (lines <= maxLines || isData(file) || !isHandWritten(file) || longFileReasons.has(file)) return []
  const message = `${lines} lines; split it, or say why in longFileReasons`
  return [{ rule: "long-file", file, line: 0, message }]
}

/** Files below `root` that git tracks or would add. Fails where git does not answer: no files is not no violations. */
export const committedFiles = (root: string): ReadonlyArray<string> => {
  const { status, stdout, stderr } = spawnSync(
    "git",
    ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 64 * 1024 * 1024,
    },
  )
  if (status !== 0) throw new Error(`git ls-files failed in ${root}: ${stderr}`)
  return [...new Set(stdout.split("\0"))].filter((file) => file !== "" && existsSync(join(root, file)))
}

export const checkCommittedText = (root: string): ReadonlyArray<Violation> =>
  committedFiles(root)
    .filter((file) => !isData(file))
    .flatMap((file) => {
      const text = readFileSync(join(root, file), "utf8")
      return [...checkText(file, text), ...checkLength(file, text)]
    })
