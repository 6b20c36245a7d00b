import { describe, expect, it } from "vitest"
import { root } from "./CopiedTree.ts"
import { checkNativeIncludes, nativeFolders, nativeSources } from "./NativeIncludes.ts"
import { render } from "./Violation.ts"

const sources = nativeSources(root)

describe("native code", () => {
  it("has plans without kernels and kernels without plans", () => {
    for (const folder of Object.keys(nativeFolders)) {
      expect([...sources.keys()].filter((file) => file.startsWith(`native/src/${folder}/`)).length).toBeGreaterThan(2)
    }
    expect(render(checkNativeIncludes(sources))).toEqual([])
  })
})

describe("a planted include", () => {
  it.each([
    ["native/src/plan/planted.h", '#include "cpu/kernels.h"'],
    ["native/src/plan/planted.cpp", '  #  include "../cuda/common/hopper.cuh"'],
    ["native/src/step/planted.h", '#include "cpu/gemm.h"'],
    ["native/src/cuda/layer/planted.cu", '#include "plan/codec.h"'],
    ["native/src/cpu/planted.h", '#include "../plan/books.h"'],
    ["native/src/reference/planted.h", '#include "step/layer_loop.h"'],
  ])("in %s is found: %s", (file, text) => {
    const planted = new Map([...sources, [file, `// A line before.\n${text}\n`]])
    expect(checkNativeIncludes(planted)).toMatchObject([{ rule: "native-include", file, line: 2 }])
  })
})
