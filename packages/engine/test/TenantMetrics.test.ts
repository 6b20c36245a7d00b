import { mostTenantSeries, otherTenants, TenantMetrics, type TenantQueue } from "@uniprefill/engine/TenantMetrics"
import { Tenants } from "@uniprefill/scheduler/Tenants"
import { expect, it } from "vitest"

const setup = () => {
  const tenants = new Tenants()
  const shown = new Map<string, () => TenantQueue>()
  const metrics = new TenantMetrics(tenants, (name, load) => {
    shown.set(name, load)
    return { remove: () => void shown.delete(name) }
  })
  const enter = (name: string, queue: Partial<TenantQueue> = {}) => {
    const tenant = Object.assign(tenants.enter(name), queue)
    metrics.entered(name)
    return tenant
  }
  return { tenants, shown, metrics, enter }
}

it("tenants beyond the most are shown as one, so that a gateway's names cannot fill the registry", () => {
  const { shown, enter, metrics } = setup()
  for (let i = 0; i < mostTenantSeries; i++) enter(`user-${i}`, { waiting: 1 })
  expect(shown.has(otherTenants)).toBe(false)
  for (let i = 0; i < 1000; i++) enter(`later-${i}`, { running: 1, waiting: 2, waitingTokens: 10 })
  expect(shown.size).toBe(mostTenantSeries + 1)
  expect(shown.get("user-3")!()).toMatchObject({ running: 0, waiting: 1 })
  expect(shown.get(otherTenants)!()).toEqual({ running: 1000, waiting: 2000, waitingTokens: 10_000 })
  metrics.close()
  expect(shown.size).toBe(0)
})

it("a newcomer takes the place of a tenant that has no requests", () => {
  const { tenants, shown, enter } = setup()
  const first = enter("first")
  for (let i = 1; i < mostTenantSeries; i++) enter(`user-${i}`)
  tenants.leave(first)
  expect(shown.get("first")!()).toEqual({ running: 0, waiting: 0, waitingTokens: 0 })
  enter("newcomer", { waiting: 4 })
  expect([shown.size, shown.has("first"), shown.get("newcomer")!().waiting]).toEqual([mostTenantSeries, false, 4])
  enter("first")
  expect([shown.size, shown.has("first"), shown.has(otherTenants)]).toEqual([mostTenantSeries + 1, false, true])
})

it("requests without a tenant have no series", () => {
  const { shown, enter } = setup()
  enter("", { waiting: 3 })
  expect(shown.size).toBe(0)
})
