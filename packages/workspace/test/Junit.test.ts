import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { readJunit } from "../src/Junit.mjs"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-junit-"))
afterAll(() => rmSync(folder, { recursive: true }))

describe("Junit", () => {
  it("reads passed, failed and skipped tests as ctest writes them", () => {
    const file = join(folder, "ctest.xml")
    writeFileSync(
      file,
      `<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="native" tests="4" failures="1" disabled="1" skipped="1">
	<testcase name="gemm" classname="gemm" time="0.1" status="run">
		<system-out>ok &lt;1e-3&gt;
</system-out>
	</testcase>
	<testcase name="attention" classname="attention" time="0.1" status="fail">
		<failure message=""/>
		<system-out>off by 2</system-out>
	</testcase>
	<testcase name="cuda" classname="cuda" time="0.1" status="notrun">
		<skipped message="SKIP_RETURN_CODE=77"/>
		<system-out>looking for a device
no GPU: driver &quot;not found&quot;
</system-out>
	</testcase>
	<testcase name="off" classname="off" time="0" status="disabled"/>
</testsuite>
`,
    )
    expect(readJunit(file)).toEqual({
      passed: 1,
      failed: 1,
      skips: [
        { name: "cuda", reason: 'no GPU: driver "not found"' },
        { name: "off", reason: "disabled" },
      ],
    })
  })

  it("finds nothing in a file that is not there", () => {
    expect(readJunit(join(folder, "none.xml"))).toEqual({ passed: 0, failed: 0, skips: [] })
  })
})
