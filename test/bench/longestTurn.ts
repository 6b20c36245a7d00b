import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { ServeProcess, serverProgram } from "../e2e/ServeProcess.ts"
import { StreamClient } from "../e2e/StreamClient.ts"

/**
 * How long one request keeps the server from all others: the longest turn of its event loop while a body is received,
 * refused or answered. The bar is 50 ms, for bodies of up to 15 MB of anything.
 *
 *     npm run bench -- longestTurn [sim|cpu]
 */
const probe = fileURLToPath(new URL("../e2e/TurnProbe.ts", import.meta.url))
const [executor = "sim"] = process.argv.slice(2)
const settings = ["--executor", executor, "--time-scale", "0", "--log-level", "warn"]
await using server = await ServeProcess.run(process.execPath, [
  "--conditions=source",
  "--import",
  probe,
  serverProgram,
  "serve",
  "--port",
  "0",
  ...settings,
])
const client = new StreamClient(server.url)

interface Turn {
  readonly cpuMs: number
  readonly wallMs: number
}

const longestTurn = async (): Promise<Turn> => {
  const said = () => [...server.stderr.matchAll(/^turns (.*)$/gm)]
  const before = said().length
  server.signal("SIGUSR2")
  while (said().length === before) await new Promise((resolve) => setTimeout(resolve, 5))
  return JSON.parse(said().at(-1)![1]!) as Turn
}

const numbers = (count: number) => Array.from({ length: count }, (_, i) => i % 4096)
const many = <A>(count: number, of: (i: number) => A) => Array.from({ length: count }, (_, i) => of(i))
const completion = (fields: object) => ({ prompt: "x", max_tokens: 1, ...fields })

/** Name, path, body: a text, or a value as JSON. */
const requests: ReadonlyArray<readonly [string, string, unknown]> = [
  ["a short prompt", "/v1/completions", completion({})],
  ["10 MB of 900,000 keys", "/v1/completions", `{${many(900_000, (i) => `"k${i}":1`).join(",")}}`],
  ["14 MB of [[[[", "/v1/completions", "[".repeat(14_000_000)],
  ["64 levels, 14 MB of empty lists", "/v1/completions", `[${"[],".repeat(4_600_000)}[]]`],
  ["65,000 keys", "/v1/completions", `{${many(65_000, (i) => `"k${i}":1`).join(",")}}`],
  [
    "65,000 keys of 200 characters",
    "/v1/completions",
    `{${many(65_000, (i) => `"${"k".repeat(200)}${i}":1`).join(",")}}`,
  ],
  ["65,000 texts", "/v1/completions", { prompt: many(65_000, (i) => `text ${i}`) }],
  ["a prompt of 15 MB", "/v1/completions", { prompt: "word ".repeat(3_000_000) }],
  ["a prompt of 7 MB of escapes", "/v1/completions", `{"prompt":"${"\\u00e4".repeat(1_200_000)}"}`],
  ["a prompt of 3,500,000 tokens", "/v1/completions", { prompt: Array(3_500_000).fill(512) }],
  ["a prompt of 32,000 tokens", "/v1/completions", completion({ prompt: numbers(32_000) })],
  [
    "a prompt of 32,000 tokens, echoed",
    "/v1/completions",
    completion({ prompt: numbers(32_000), echo: true, logprobs: 5 }),
  ],
  ["a prompt of 100,000 characters", "/v1/completions", completion({ prompt: "word ".repeat(20_000) })],
  [
    "128 prompts of 2,000 characters",
    "/v1/completions",
    completion({ prompt: many(128, (i) => `${i} word `.repeat(250)) }),
  ],
  ["a stop string of 14 MB", "/v1/completions", completion({ stop: "y".repeat(14_000_000) })],
  ["65,536 allowed tokens", "/v1/completions", completion({ allowed_token_ids: numbers(65_536) })],
  ["1,000,000 allowed tokens", "/v1/completions", completion({ allowed_token_ids: numbers(1_000_000) })],
  ["1,024 biases", "/v1/completions", completion({ logit_bias: Object.fromEntries(many(1024, (i) => [i, 1])) })],
  [
    "64 answers of 400 tokens, 20 log-probabilities",
    "/v1/completions",
    completion({ n: 64, max_tokens: 400, logprobs: 20, ignore_eos: true }),
  ],
  ["a message of 15 MB", "/v1/chat/completions", { messages: [{ role: "user", content: "word ".repeat(3_000_000) }] }],
  [
    "4,096 messages",
    "/v1/chat/completions",
    { max_tokens: 1, messages: many(4096, () => ({ role: "user", content: "hi" })) },
  ],
  [
    "60,000 template variables",
    "/v1/chat/completions",
    {
      messages: [{ role: "user", content: "x" }],
      chat_template_kwargs: Object.fromEntries(many(60_000, (i) => [`k${i}`, 1])),
    },
  ],
  ["15 MB to tokenise", "/tokenize", { prompt: "word ".repeat(3_000_000) }],
  ["1,000,000 tokens to detokenise", "/detokenize", { tokens: numbers(1_000_000) }],
  ["an input of 15 MB", "/v1/responses", { input: "word ".repeat(3_000_000) }],
  [
    "Anthropic's message of 15 MB",
    "/v1/messages",
    { max_tokens: 1, messages: [{ role: "user", content: "word ".repeat(3_000_000) }] },
  ],
]

for (let i = 0; i < 20; i++) await client.post("/v1/completions", completion({}))
let worst = 0
const report = (name: string, status: number, { cpuMs, wallMs }: Turn, ms: number) => {
  worst = Math.max(worst, cpuMs)
  console.log(
    `${cpuMs.toFixed(0).padStart(5)} ms of processor time, ${wallMs.toFixed(0).padStart(5)} ms on the clock: ` +
      `${name} → ${status} in ${ms.toFixed(0)} ms`,
  )
}
for (const [name, path, body] of requests) {
  const text = typeof body === "string" ? body : JSON.stringify(body)
  await longestTurn()
  const began = performance.now()
  const { status } = await client.postText(path, text)
  report(name, status, await longestTurn(), performance.now() - began)
}
const bomb = gzipSync(Buffer.alloc(16_000_000, "["))
await longestTurn()
const began = performance.now()
const response = await fetch(`${server.url}/v1/completions`, {
  method: "POST",
  headers: { "content-type": "application/json", "content-encoding": "gzip" },
  body: bomb,
})
report("16 MB of [[[[, compressed", response.status, await longestTurn(), performance.now() - began)
console.log(`longest turn: ${worst.toFixed(0)} ms of processor time (bar: 50 ms)`)
client.close()
