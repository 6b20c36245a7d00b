import { measurementOf } from "uniprefill/quality/CalibrateCommand"
import { expect, it } from "vitest"

it("goes on with what was measured of the same prompts in the same precision and with the same keys alone", () => {
  const settings = { tokens: 4096, seed: 1, tasks: ["number"], prompts: 30, quantization: "none" } as const
  const whole = { ...settings, tasks: [...settings.tasks], haystack: undefined, "prefill-sparsity": undefined }
  const own = measurementOf("0123456789abcdef", whole)
  expect(measurementOf("0123456789abcdef", { ...whole })).toBe(own)
  expect(measurementOf("fedcba9876543210", whole)).not.toBe(own)
  for (const other of [
    { tokens: 8192 },
    { seed: 2 },
    { prompts: 31 },
    { haystack: "a.txt" },
    { quantization: "fp8" },
    { "prefill-sparsity": 0.9 },
  ] as const)
    expect(measurementOf("0123456789abcdef", { ...whole, ...other })).not.toBe(own)
})
