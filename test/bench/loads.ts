/**
 * What single requests see under ordinary load, in virtual time: Llama-3.1-8B on an H100 by its datasheet. One line a case,
 * with the limit that test/simulation/loads.test.ts holds loads of its kind to.
 *
 * Run: node --conditions=source test/bench/loads.ts [case ...]
 */
import { cases } from "../simulation/LoadCases.ts"

const only = process.argv.slice(2)
for (const { name, measure } of cases) {
  if (only.length > 0 && !only.some((part) => name.includes(part))) continue
  console.log(name, JSON.stringify(measure()))
}
