import { readFileSync } from "node:fs"
import { Result } from "effect"
import { serveOptions } from "uniprefill/options/ServeOptions"
import { describe, expect, it } from "vitest"
import { parseAllDocuments } from "yaml"

const read = (file: string) => readFileSync(new URL(`../deploy/${file}`, import.meta.url), "utf8")

/** Decodes `--name=value` as the command line would. */
const valueOf = (flag: string): readonly [name: string, value: unknown] => {
  const [, name, text] = /^--([\w-]+)=(.*)$/.exec(flag)!
  const spec = serveOptions[name as keyof typeof serveOptions]
  expect(spec, `--${name} is an option`).toBeDefined()
  const decoded: Result.Result<unknown, string> = spec.decode(text!)
  return [name!, Result.getOrThrow(decoded)]
}

describe("the Kubernetes manifests", () => {
  const documents = parseAllDocuments(read("kubernetes.yaml")).map((document) => document.toJS())
  const [deployment, service] = documents
  const pod = deployment.spec.template.spec
  const [container] = pod.containers

  it("give options that there are, and enough time to drain", () => {
    const options = new Map(container.args.map(valueOf))
    const drain = options.get("drain-seconds") as number
    const pause = Number(/, (\d+)\)/.exec(container.lifecycle.preStop.exec.command[2])![1]) / 1000
    expect(pod.terminationGracePeriodSeconds).toBeGreaterThan(drain + pause + 1)
    const events = options.get("kv-events-config") as { endpoint: string; replayEndpoint: string }
    const ports = new Set(container.ports.map((port: { containerPort: number }) => port.containerPort))
    for (const endpoint of [events.endpoint, events.replayEndpoint]) {
      expect(ports).toContain(Number(endpoint.split(":").at(-1)))
    }
  })

  it("probe paths that there are, on the serving port", () => {
    const probes = ["startupProbe", "readinessProbe", "livenessProbe"].map((name) => container[name].httpGet)
    expect(probes.map(({ path }) => path)).toEqual(["/ready", "/ready", "/health"])
    expect(new Set(probes.map(({ port }) => port))).toEqual(new Set(["http"]))
    expect(service.spec.ports[0].targetPort).toBe("http")
    expect(service.spec.selector).toEqual(deployment.spec.template.metadata.labels)
  })

  it("agree with the inference pool", () => {
    const [pool, route] = parseAllDocuments(read("inference-pool.yaml")).map((document) => document.toJS())
    expect(pool.spec.selector.matchLabels).toEqual(deployment.spec.selector.matchLabels)
    expect(pool.spec.targetPorts).toEqual([{ number: 8000 }])
    expect(route.spec.rules[0].backendRefs[0].name).toBe(pool.metadata.name)
  })
})

it("the Grafana dashboard asks for metrics and labels that there are", () => {
  const page = readFileSync(new URL("../../../docs/server-metrics.md", import.meta.url), "utf8")
  const known = new Set([...page.matchAll(/^\| `(\S+)`/gm)].map(([, name]) => name!))
  const { panels } = JSON.parse(read("grafana.json")) as {
    panels: Array<{ title: string; targets: Array<{ expr: string }> }>
  }
  expect(panels.length).toBeGreaterThan(10)
  for (const { targets } of panels) {
    for (const { expr } of targets) {
      const names = [...expr.matchAll(/(?:vllm|uniprefill):\w+|http_requests_total/g)].map(([name]) => name)
      expect(names.length).toBeGreaterThan(0)
      for (const name of names) expect(known).toContain(name.replace(/_(bucket|sum|count)$/, ""))
    }
  }
})

describe("the systemd unit", () => {
  const unit = read("uniprefill.service")

  it("waits longer than a drain takes, and names an entry that there is", () => {
    const seconds = Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)![1])
    expect(seconds).toBeGreaterThan(serveOptions["drain-seconds"].defaultValue + 1)
    expect(unit).toMatch(/^ExecStart=\/opt\/uniprefill\/apps\/server\/bin\/uniprefill\.mjs serve /m)
  })
})

it("the image's settings are options, its health check a path", () => {
  const image = read("Dockerfile")
  const names = [...image.matchAll(/UNIPREFILL_(\w+)=/g)].map(([, name]) => name!.toLowerCase().replaceAll("_", "-"))
  for (const name of names) expect(Object.keys(serveOptions)).toContain(name)
  expect(image).toContain("/ready")
})

it("the page for people who come from vLLM names options that there are", () => {
  const page = readFileSync(new URL("../../../docs/from-vllm.md", import.meta.url), "utf8")
  const here = [...page.matchAll(/^\| `--.*?\| (.*) \|$/gm)].map(([, column]) => column!)
  const flags = here.flatMap((column) => [...column.matchAll(/`--([\w-]+)/g)].map(([, name]) => name!))
  expect(flags.length).toBeGreaterThan(5)
  for (const flag of flags) expect(Object.keys(serveOptions)).toContain(flag)
})
