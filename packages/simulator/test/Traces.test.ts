import { Random } from "@uniprefill/units/Random"
import { PageKeys } from "@uniprefill/simulator/workload/PageKeys"
import { reusableTokens, scaled, unscaled } from "@uniprefill/simulator/workload/Scaling"
import { serveGenWorkload } from "@uniprefill/simulator/workload/ServeGen"
import { spreadTicks } from "@uniprefill/simulator/workload/Ticks"
import { readTrace } from "@uniprefill/simulator/workload/TraceFormat"
import { workloadHash, workloadOf } from "@uniprefill/simulator/workload/Workload"
import { describe, expect, it } from "vitest"

const auto = { format: "auto", seed: 1, spread: false, blockTokens: 0 } as const
const read = (text: string) => readTrace("t", text, auto)

const mooncake = [
  '{"timestamp": 0, "input_length": 1300, "output_length": 5, "hash_ids": [0, 1, 2]}',
  '{"timestamp": 3000, "input_length": 1024, "output_length": 1, "hash_ids": [0, 7]}',
].join("\n")

describe("formats", () => {
  it("Mooncake: milliseconds, full blocks of 512", () => {
    const trace = read(mooncake)
    expect([...trace.arrivalMicros]).toEqual([0, 3_000_000])
    expect([...trace.blocks]).toEqual([0, 1, 0, 7])
    expect(trace.blockTokens).toBe(512)
    expect(trace.assumptions.join()).toContain("milliseconds")
  })

  it("Bailian: seconds, blocks of 16, a turn after the one it follows", () => {
    const row = (chat: number, parent: number, time: number) =>
      `{"chat_id": ${chat}, "parent_chat_id": ${parent}, "timestamp": ${time}, "input_length": 33, "output_length": 2, "type": "text", "turn": 1, "hash_ids": [1, 2, ${chat}]}`
    const trace = read([row(10, -1, 0.5), row(11, 10, 1.25), row(12, 99, 2)].join("\n"))
    expect([...trace.arrivalMicros]).toEqual([500_000, 1_250_000, 2_000_000])
    expect([...trace.after]).toEqual([-1, 0, -1])
    expect([...trace.blocks]).toEqual([1, 2, 1, 2, 1, 2])
    expect(trace.tenants).toEqual(["text"])
  })

  it("Azure: dates over a month's end, the first row at 0", () => {
    const trace = read(
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-02-28 23:59:59.9000000,374,44\r\n2024-03-01 00:00:00.1000005,396,109",
    )
    expect([...trace.arrivalMicros]).toEqual([0, 86_400_200_000])
    expect([...trace.promptTokens]).toEqual([374, 396])
  })

  it("BurstGPT: rows without output are left out and counted", () => {
    const trace = read(
      "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,10,0,10,API log\n",
    )
    expect(trace.count).toBe(1)
    expect(trace.assumptions).toContain("1 rows with 0 response tokens are failures and left out")
  })

  it("nanoseconds with blocks of 16", () => {
    const trace = read('{"arrival_time_ns": 46926808, "input_length": 40, "output_length": 3, "hash_ids": [4, 5]}')
    expect([...trace.arrivalMicros, ...trace.blocks, trace.blockTokens]).toEqual([46_927, 4, 5, 16])
  })

  it("CSV with the columns of policies", () => {
    const trace = read(
      "arrival_s,prompt_tokens,output_tokens,tenant,priority,ttft_slo_ms,max_tokens\n1.5,10,2,a,-3,250,9\n2,10,2,b,,,\n",
    )
    expect([...trace.arrivalMicros]).toEqual([1_500_000, 2_000_000])
    expect([trace.tenants, [...trace.priority], [...trace.ttftSloMicros], [...trace.maxTokens]]).toEqual([
      ["a", "b"],
      [-3, 0],
      [250_000, 0],
      [9, -1],
    ])
  })
})

describe("what is wrong is named with file and line", () => {
  it.each([
    [mooncake.replace("1300", '"many"'), 't:1: input_length is "many", expected a number'],
    [mooncake.replace("1300", "1.5"), "t:1: input_length is 1.5, expected an integer from 1 to 16777216"],
    [mooncake.replace("1300", "99999999"), "t:1: input_length is 99999999, expected an integer from 1 to 16777216"],
    [mooncake.replace("3000", "-1"), "t:2: timestamp is -1, which is negative"],
    [mooncake.replace("[0, 7]", "[0]"), "t:2: hash_ids has 1 ids; 1024 tokens make 2 blocks of 512"],
    [mooncake.replace("[0, 7]", '[0, "x"]'), 't:2: hash_ids[1] is "x"'],
    [`${mooncake}\n{"timestamp": 1`, "t:3: not a JSON object"],
    [`${mooncake}\n${mooncake}`, "t:3: timestamp 0 is before 3000 of line 2; rows are in order of arrival"],
    ["", "t: the file is empty"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n", "t: no requests in the trace"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n2023-13-01 00:00:00,1,1", "t:2: TIMESTAMP"],
    ["TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-01 00:00:00,1", "t:2: 2 columns, the first line names 3"],
    ["arrival_ms,prompt_tokens,output_tokens,prioriti\n1,1,1,1", 't:1: unknown column "prioriti"'],
    ["prompt_tokens,output_tokens\n1,1", "t:1: needs one of arrival_us, arrival_ms, arrival_s, has none"],
    ["arrival_ms,prompt_tokens,output_tokens,max_tokens\n1,1,5,4", "t:2: max_tokens is 4, expected an integer from 5"],
    ["a,b,c\n1,2,3", "t:1: not a known trace"],
  ])("%#", (text, message) => {
    expect(() => read(text)).toThrow(message)
  })
})

it("arrivals on ticks are spread inside their tick and stay in order", () => {
  const arrivals = Float64Array.of(0, 0, 0, 3e6, 3e6, 6e6, 6e6, 6e6, 7e6, 7e6, 10e6, 10e6)
  const before = arrivals.slice()
  expect(spreadTicks(arrivals, new Random(1, "t"))).toBe(3e6)
  expect([...arrivals]).toEqual([...arrivals].sort((a, b) => a - b))
  for (const [i, at] of arrivals.entries()) {
    expect(at).toBeGreaterThanOrEqual(before[i]!)
    expect(at).toBeLessThan(before[i]! + (before[i] === 6e6 ? 1e6 : 3e6))
  }
  expect(arrivals[0]).not.toBe(arrivals[1])
})

it("arrivals that are no ticks stay as they are", () => {
  const arrivals = Float64Array.of(0, 5, 9, 9, 14)
  expect(spreadTicks(arrivals, new Random(1, "t"))).toBe(0)
  expect([...arrivals]).toEqual([0, 5, 9, 9, 14])
})

describe("scaling", () => {
  const trace = read(mooncake)

  it("changes rate and lengths and says so", () => {
    const changed = scaled(trace, { ...unscaled, rate: 2, promptLength: 0.5, maxPromptTokens: 600 })
    expect([...changed.arrivalMicros]).toEqual([0, 1_500_000])
    expect([...changed.promptTokens]).toEqual([600, 512])
    expect([...changed.blocks]).toEqual([0, 0])
    expect(changed.assumptions.slice(-4)).toEqual([
      "rate of arrivals × 2",
      "prompt lengths × 0.5",
      "1 prompts cut to 600 tokens",
      "max_tokens states each output's true length (traces have no other)",
    ])
  })

  it("repeats with prefixes that are not shared between repetitions", () => {
    const twice = scaled(trace, { ...unscaled, repeat: 2 })
    expect([...twice.arrivalMicros]).toEqual([0, 3e6, 6e6, 9e6])
    expect(reusableTokens(trace)).toBe(512)
    expect(reusableTokens(twice)).toBe(1024)
  })

  it("leaves nothing with an error", () => {
    expect(() => scaled(trace, { ...unscaled, skip: 2 })).toThrow("none are left after the first 2")
  })

  it("gives the same hash for the same requests only", () => {
    expect(workloadHash(trace)).toBe(workloadHash(read(mooncake)))
    expect(workloadHash(trace)).not.toBe(workloadHash(read(mooncake.replace("1300", "1301"))))
  })
})

it("page keys are equal where the prefix is, whatever the block size", () => {
  const keys = (blockTokens: number, promptTokens: number, blocks: ReadonlyArray<number>) => {
    const workload = workloadOf("w", [], blockTokens, [{ arrivalMicros: 0, promptTokens, outputTokens: 1, blocks }])
    const list = new PageKeys(workload, 128).of(0)
    return list && Array.from({ length: list.length + 1 }, (_, page) => list.at(page))
  }
  // Four pages in a block of 512; a partial page has no key.
  expect(keys(512, 1024, [3, 9])).toEqual([12, 13, 14, 15, 36, 37, 38, 39, undefined])
  expect(keys(512, 1023, [3])).toEqual([12, 13, 14, 15, undefined])
  // Eight blocks of 16 in a page: the last one's id names it.
  expect(keys(16, 300, [0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29])).toEqual([7, 27, undefined])
  expect(keys(0, 300, [])).toBeUndefined()
})

it("ServeGen statistics become requests at their rate, the same for a seed", () => {
  const client = JSON.stringify({
    client: 3,
    arrival_windows: [
      [0, 5, 2, "Gamma", 0.25, 1],
      [600, 0, 0, null, 0, 0],
    ],
    length_windows: {
      "0": {
        input_tokens: [
          [100, 0.5],
          [300, 0.5],
        ],
        output_tokens: [[7, 1]],
      },
    },
  })
  const without = JSON.stringify({ client: 4, arrival_windows: [[0, 5, 1, "Gamma", 1, 1]], length_windows: null })
  const options = { seed: 1, fromSecond: 0, seconds: 1200, requests: 100_000 }
  const workload = serveGenWorkload("s", `${client}\n${without}`, options)
  expect(workload.count).toBeGreaterThan(2500)
  expect(workload.count).toBeLessThan(3500)
  expect(new Set(workload.promptTokens)).toEqual(new Set([100, 300]))
  expect(workload.arrivalMicros.at(-1)).toBeLessThan(600e6)
  expect(workload.assumptions).toContain("1 clients have no lengths and are left out")
  expect(workloadHash(serveGenWorkload("s", client, options))).toBe(workloadHash(workload))
})

describe("traces as they are published", () => {
  it("Azure 2024 has dates with an offset", () => {
    const text =
      "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01.009930+00:00,10,5"
    expect([...read(text).arrivalMicros]).toEqual([0, 1_000_000])
    expect(() => read(text.replace("+00:00", "+02:00"))).toThrow(/t:2: .*UTC/)
  })

  it("Mooncake rows may say nothing of prefixes, or have blocks of another size", () => {
    const bare = read('{"timestamp": 0, "input_length": 1300, "output_length": 5}')
    expect([bare.blockTokens, bare.assumptions[0]]).toEqual([
      0,
      "times in milliseconds, nothing said of shared prefixes",
    ])
    const small = '{"timestamp": 0, "input_length": 130, "output_length": 5, "hash_ids": [3, 4, 5]}'
    expect(() => read(small)).toThrow(
      /hash_ids has 3 ids; 130 tokens make 1 blocks of 512.*--block-size \(here at least 44\)/,
    )
    const told = readTrace("t", small, { ...auto, blockTokens: 64 })
    expect([told.blockTokens, ...told.blocks]).toEqual([64, 3, 4])
  })

  it("turns of a session follow the end of the one before, after its delay", () => {
    const trace = read(
      [
        '{"session_id": "a", "timestamp": 0, "input_length": 100, "output_length": 5}',
        '{"session_id": "b", "timestamp": 10, "input_length": 100, "output_length": 5}',
        '{"session_id": "a", "delay": 250, "input_length": 200, "output_length": 5}',
      ].join("\n"),
    )
    expect([...trace.after]).toEqual([-1, -1, 0])
    expect([...trace.thinkMicros]).toEqual([0, 0, 250_000])
  })

  it("ticks of a second are spread in every format that has them, and said", () => {
    const rows = Array.from({ length: 40 }, (_, i) => `${Math.floor(i / 4)},gpt,10,5,15,x`).join("\n")
    const burst = `Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n${rows}`
    const spread = readTrace("t", burst, { ...auto, spread: true })
    expect(new Set(spread.arrivalMicros).size).toBeGreaterThan(30)
    expect(spread.assumptions.join()).toContain("ticks of 1 s are spread")
    expect(new Set(read(burst).arrivalMicros).size).toBe(10)
  })

  it("a byte-order mark is no part of the first row", () => {
    expect(read(`\uFEFF${mooncake}`).count).toBe(2)
  })
})
