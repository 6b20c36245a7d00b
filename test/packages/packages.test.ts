import { existsSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { build } from "vite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { root } from "../architecture/CopiedTree.ts"
import { PrefixAwarePicker } from "../e2e/PrefixAwarePicker.ts"
import { ServeProcess } from "../e2e/ServeProcess.ts"
import { examplesIn, filesBelow, type Finished, Installation } from "./Installation.ts"

/** What npm would publish, as those get it who have no checkout: packed once, installed once in each way. */
let installation: Installation
let installed: Finished
beforeAll(() => {
  installation = new Installation()
  installed = installation.installProject()
})
afterAll(() => installation?.[Symbol.dispose]())

const libraries =
  "cost-model engine executor executor-native model openai placement recording scheduler simulator threads"
const names = [
  ...`${libraries} tokenizer units needle-10m-deep native-linux-x64 sim`
    .split(" ")
    .map((name) => `@uniprefill/${name}`),
  "uniprefill",
].sort()

const manifestOf = (name: string) =>
  JSON.parse(readFileSync(join(installation.project, "node_modules", name, "package.json"), "utf8")) as object

const ok = ({ status, stderr }: Finished) => ({ status, stderr: status === 0 ? "" : stderr })
const fine = { status: 0, stderr: "" }

/** What a check finds in each package, without those where it finds nothing. */
const found = <A>(check: (name: string) => ReadonlyArray<A>): Readonly<Record<string, ReadonlyArray<A>>> =>
  Object.fromEntries(names.map((name) => [name, check(name)] as const).filter(([, each]) => each.length > 0))

const tarballOf = (name: string) => installation.packages.find((each) => each.name === name)!
const pathsIn = (name: string) => tarballOf(name).files.map(({ path }) => path)

describe("the tarballs", () => {
  it("are those of all that is published, with licence and page", () => {
    expect(installation.packages.map(({ name }) => name).sort()).toEqual(names)
    const wanted = ["package.json", "README.md", "LICENSE"]
    expect(found((name) => wanted.filter((path) => !pathsIn(name).includes(path)))).toEqual({})
  })

  it("hold no tests and no build state, and the source of every module", () => {
    const unwanted = /(^|\/)test\/|\.(test|spec)\.|tsbuildinfo|tsconfig|(^|\/)\./
    expect(found((name) => pathsIn(name).filter((path) => unwanted.test(path)))).toEqual({})
    const sourceOf = (path: string) => path.replace(/^dist\/(.*)\.js$/, "src/$1.ts")
    const isModule = (path: string) => /^dist\/.*\.js$/.test(path)
    const modules = (name: string) => pathsIn(name).filter(isModule)
    expect(modules("@uniprefill/scheduler")).toContain("dist/Driver.js")
    expect(found((name) => modules(name).filter((path) => !pathsIn(name).includes(sourceOf(path))))).toEqual({})
  })

  it("hold what their pages link to", () => {
    const linksOf = (name: string) =>
      [...installation.readmeOf(name).matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map((match) => match[1]!)
    expect(found((name) => linksOf(name).filter((link) => !pathsIn(name).includes(link)))).toEqual({})
  })

  it("would be published without a complaint", () => {
    const stage = join(installation.tarballs, "stage")
    // They are packed: here npm looks at manifests and lists of files, and need not compress the weights again.
    const large = filesBelow(stage).filter((file) => statSync(join(stage, file)).size > 1_000_000)
    for (const file of large) truncateSync(join(stage, file))
    const { status, stdout, stderr } = installation.npm(stage, "publish", "--dry-run", "--offline", "--workspaces")
    expect({ status, stderr: status === 0 ? "" : stderr }).toEqual(fine)
    const complaints = stderr.split("\n").filter((line) => /^npm (warn|error)/.test(line) && !/logged in to/.test(line))
    expect(complaints).toEqual([])
    expect(stdout.match(/^\+ (@uniprefill\/|uniprefill@)/gm)).toHaveLength(names.length)
  })

  it("have the sizes that docs/packages.md lists", () => {
    const page = readFileSync(join(root, "docs/packages.md"), "utf8")
    const rows = [...page.matchAll(/^\| `([^`]+)` +\| +([\d,]+) \| +([\d,]+) \|/gm)].map(
      ([, name, packed, unpacked]) => ({
        name: name!,
        packed: Number(packed!.replaceAll(",", "")),
        unpacked: Number(unpacked!.replaceAll(",", "")),
      }),
    )
    expect(rows.map(({ name }) => name).sort()).toEqual(names)
    const far = (said: number, bytes: number) => Math.abs(said - bytes / 1000) > 0.2 * said + 3
    const wrong = rows.filter((row) => {
      const { size, unpackedSize } = tarballOf(row.name)
      // The native package is as large as what was built: with or without the CUDA backend.
      const isNative = row.name === "@uniprefill/native-linux-x64"
      return !isNative && (far(row.packed, size) || far(row.unpacked, unpackedSize))
    })
    expect(wrong).toEqual([])
  })
})

describe("an empty project", () => {
  it("installs them without build tools, and nothing is missing", () => {
    expect(ok(installed)).toEqual(fine)
    // npm 11 names a script that it did not run: zeromq brings what that would build.
    expect(installed.stderr).not.toMatch(/npm (warn(?! install-scripts)|error)/)
    expect(ok(installation.npm(installation.project, "ls", "--all"))).toEqual(fine)
  })

  it("gets no path of the machine that packed them", () => {
    const inProject = (name: string) => join(installation.project, "node_modules", name)
    const namesRoot = (folder: string) => (file: string) => readFileSync(join(folder, file)).includes(`${root}/`)
    expect(found((name) => filesBelow(inProject(name)).filter(namesRoot(inProject(name))))).toEqual({})
  })

  it("gets manifests that name no source condition, script or development dependency", () => {
    const isDevelopers = (manifest: object) =>
      "scripts" in manifest || "devDependencies" in manifest || JSON.stringify(manifest).includes('"source"')
    expect(names.filter((name) => isDevelopers(manifestOf(name)))).toEqual([])
  })

  it("can import every module on the oldest Node", () => {
    const modules = names.flatMap((name) =>
      filesBelow(join(installation.project, "node_modules", name))
        .filter((file) => /^dist\/.*\.js$/.test(file) && !/(^|\/)(main|\w*Thread(Main)?)\.js$/.test(file))
        .map((file) => `${name}/${file.slice("dist/".length, -".js".length)}`),
    )
    expect(modules.length).toBeGreaterThan(200)
    writeFileSync(
      join(installation.project, "every.mjs"),
      `for (const each of ${JSON.stringify(modules)}) await import(each)\nconsole.log("all", process.versions.node)\n`,
    )
    const { stdout, ...rest } = installation.run(installation.oldNode, "every.mjs")
    expect({ ...ok(rest as Finished), stdout }).toEqual({ ...fine, stdout: "all 22.19.0\n" })
  })
})

describe("the examples of the packages' pages", () => {
  interface Example {
    readonly file: string
    readonly prints: ReadonlyArray<string>
  }
  let examples: ReadonlyArray<Example>
  beforeAll(() => {
    const folder = join(installation.project, "examples")
    mkdirSync(folder)
    examples = names.flatMap((name) =>
      examplesIn(installation.readmeOf(name), "ts").map(({ code, prints }, index) => {
        const file = `${name.replace("@uniprefill/", "")}-${index + 1}.ts`
        writeFileSync(join(folder, file), code)
        return { file, prints }
      }),
    )
  })

  it("are there for every package", () => {
    const without = names.filter(
      (name) =>
        ["ts", "sh"].flatMap((language) => examplesIn(installation.readmeOf(name), language as "ts")).length === 0,
    )
    expect(without).toEqual(["@uniprefill/native-linux-x64"])
  })

  it.each([
    ["Node", { module: "nodenext" }],
    ["bundlers", { module: "preserve", moduleResolution: "bundler" }],
  ])("typecheck as %s find modules", (_, resolution) => {
    const compilerOptions = { ...resolution, target: "es2024", strict: true, noEmit: true, types: ["node"] }
    const config = { compilerOptions, include: ["examples"] }

    writeFileSync(join(installation.project, "tsconfig.json"), JSON.stringify(config))
    const { status, stdout } = installation.run(join(root, "node_modules/.bin/tsc"), "-p", ".")
    expect({ status, stdout }).toEqual({ status: 0, stdout: "" })
  })

  it.each(["the oldest Node", "this Node"])("print what they say on %s", (which) => {
    const node = which === "this Node" ? process.execPath : installation.oldNode
    const files = examples.map(({ file }) => file)
    const program = `for (const file of ${JSON.stringify(files)}) { console.log(file); await import("./examples/" + file) }`
    const { stdout, ...rest } = installation.run(node, "--input-type=module", "--eval", program)
    expect(ok(rest as Finished)).toEqual(fine)
    expect(stdout.trimEnd().split("\n")).toEqual(examples.flatMap(({ file, prints }) => [file, ...prints]))
  })

  it("run when they are bundled for a browser", async () => {
    const entry = join(installation.project, "examples/simulator-1.ts")
    await build({
      root: installation.project,
      configFile: false,
      logLevel: "error",
      build: { outDir: "bundle", lib: { entry, formats: ["es"], fileName: "page" } },
    })
    const bundle = readFileSync(join(installation.project, "bundle/page.js"), "utf8")
    expect(bundle).not.toMatch(/from\s*"node:|require\(/)
    const { stdout, ...rest } = installation.run(process.execPath, "bundle/page.js")
    const { prints } = examples.find(({ file }) => file === "simulator-1.ts")!
    expect({ ...ok(rest as Finished), stdout }).toEqual({ ...fine, stdout: `${prints.join("\n")}\n` })
  })
})

describe("npm install -g", () => {
  beforeAll(() => expect(ok(installation.installGlobally())).toEqual(fine))
  const program = (name: string) => join(installation.prefix, "bin", name)
  const serve = (node: string, ...options: ReadonlyArray<string>) =>
    ServeProcess.run(node, [program("uniprefill"), "serve", "--port", "0", ...options], installation.environment)
  const complete = async ({ url }: ServeProcess, prompt: string) => {
    const response = await fetch(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "needle-10m-deep", prompt, max_tokens: 8, temperature: 0 }),
    })
    return (await response.json()) as object
  }

  it("gives commands that do what their pages say", () => {
    for (const name of ["uniprefill", "@uniprefill/sim"]) {
      const commands = examplesIn(installation.readmeOf(name), "sh")
      expect(commands).not.toEqual([])
      for (const { code, prints } of commands) {
        const script = `PATH="${installation.prefix}/bin:$PATH"\n${code}`
        const { stdout, ...rest } = installation.run("/bin/sh", "-c", script)
        expect(ok(rest as Finished)).toEqual(fine)
        expect(stdout.split("\n").map((line) => line.trim())).toEqual(expect.arrayContaining([...prints]))
      }
    }
  })

  it.each(["the oldest Node", "this Node"])(
    "gives a server that answers with the embedded model on %s",
    async (which) => {
      await using server = await serve(which === "this Node" ? process.execPath : installation.oldNode)
      const prompt = "Ada Turner lives in Geneva.\nQuestion: Where does Ada Turner live?\nAnswer:"
      expect(await complete(server, prompt)).toMatchObject({ choices: [{ text: " Geneva" }] })
    },
  )

  // Over ZeroMQ's own prebuilt library, which npm installs without running its script.
  it.each(["the oldest Node", "this Node"])("gives a server that tells a gateway its prefixes on %s", async (which) => {
    const config = { enable_kv_cache_events: true, endpoint: "tcp://127.0.0.1:*", topic: "kv@pod@needle" }
    const options = ["--log-format", "json", "--kv-events-config", JSON.stringify(config)]
    await using server = await serve(which === "this Node" ? process.execPath : installation.oldNode, ...options)
    const picker = new PrefixAwarePicker()
    await picker.add(server.url, server.kvEventsEndpoint, "kv@pod@")
    const prompt = `${"Ada Turner lives in Geneva. ".repeat(60)}\nQuestion: Where does Ada Turner live?\nAnswer:`
    expect((await picker.pick(prompt)).cached).toBe(0)
    await complete(server, prompt)
    await expect.poll(async () => (await picker.pick(prompt)).cached).toBeGreaterThan(0)
    expect(picker.gaps).toBe(0)
    picker.close()
  })

  /** Where npm put a dependency of the server: beside it or below it. */
  const installedTo = (...path: ReadonlyArray<string>) => {
    const places = ["lib/node_modules", "lib/node_modules/uniprefill/node_modules"]
      .map((place) => join(installation.prefix, place, ...path))
      .filter((place) => existsSync(place))
    expect(places).not.toEqual([])
    return places
  }

  it("says in one line what to do where ZeroMQ cannot be loaded", () => {
    for (const place of installedTo("zeromq", "build")) rmSync(place, { recursive: true })
    const options = ["--executor", "sim", "--port", "0", "--kv-events-config", "{}"]
    const { status, stderr } = installation.run(program("uniprefill"), "serve", ...options)
    expect(status).toBe(2)
    expect(stderr.trimEnd().split("\n").at(-1)).toMatch(
      /^uniprefill: --kv-events-config: ZeroMQ cannot be loaded: .*; `npm rebuild zeromq` builds it/,
    )
  })

  it("says in one line what to do where there is no native library", () => {
    for (const place of installedTo("@uniprefill/native-linux-x64")) rmSync(place, { recursive: true })
    const told = (platform: object) => {
      const values = Object.entries(platform).map(([key, value]) => [key, { value }])
      const preload = `Object.defineProperties(process, ${JSON.stringify(Object.fromEntries(values))})`
      const args = ["--import", `data:text/javascript,${preload}`, program("uniprefill"), "serve", "--port", "0"]
      const { status, stderr } = installation.run(process.execPath, ...args)
      expect(status).toBe(1)
      return stderr.trimEnd().split("\n").at(-1)
    }
    const advice = "native-linux-x64 is not installed: install again without --omit=optional"
    expect(told({})).toMatch(new RegExp(`^uniprefill: .*${advice}$`))
    // As npm leaves it where the optional package is not for the system.
    const elsewhere = "there is none for darwin-arm64: models run on Linux on x86-64, in a container for example"
    expect(told({ platform: "darwin", arch: "arm64" })).toMatch(new RegExp(`^uniprefill: .*${elsewhere}`))
  })
})
