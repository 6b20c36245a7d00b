import fc from "fast-check"
import { IntList } from "@uniprefill/scheduler/IntList"
import { describe, expect, it } from "vitest"
import { ObjectGraph } from "@uniprefill/simulator/timetravel/ObjectGraph"

class Node {
  value: number
  next: Node | null = null
  readonly words = new Int32Array(3000)
  readonly byName = new Map<string, Node>()
  readonly seen = new Set<number>()
  readonly list: Array<number | Node> = []
  readonly add: (by: number) => void

  constructor(value: number) {
    this.value = value
    this.add = (by) => (this.value += by)
  }
}

describe("ObjectGraph", () => {
  it("puts back fields, arrays, typed arrays, maps and sets, in the same objects", () => {
    const root = new Node(1)
    const first = new Node(2)
    root.next = first
    root.byName.set("first", first).set("self", root)
    root.seen.add(7)
    root.list.push(1, first, Number.NaN)
    root.words[2999] = 5
    const graph = new ObjectGraph(root, [])
    const before = graph.take()
    root.add(10)
    root.next = new Node(3)
    first.value = -1
    root.byName.delete("first")
    root.byName.set("other", new Node(4))
    root.seen.clear()
    root.list.length = 0
    root.words.fill(9)
    graph.restore(before)
    expect(root.value).toBe(1)
    expect(root.next).toBe(first)
    expect(first.value).toBe(2)
    expect([...root.byName]).toEqual([
      ["first", first],
      ["self", root],
    ])
    expect([...root.seen]).toEqual([7])
    expect(root.list).toEqual([1, first, Number.NaN])
    expect([root.words[0], root.words[2999]]).toEqual([0, 5])
    root.add(1)
    expect(root.value).toBe(2)
  })

  it("brings back an object that nothing refers to any more, and one that came back and went again", () => {
    const root = new Node(0)
    const graph = new ObjectGraph(root, [])
    const lost = new Node(5)
    root.next = lost
    const held = graph.take()
    root.next = null
    const without = graph.take()
    lost.value = 6
    root.next = lost
    const again = graph.take()
    for (const [snapshot, next, value] of [
      [held, lost, 5],
      // What is not part of a snapshot stays as it is.
      [without, null, 5],
      [again, lost, 6],
      [held, lost, 5],
    ] as const) {
      graph.restore(snapshot)
      expect(root.next).toBe(next)
      expect(lost.value).toBe(value)
    }
  })

  it("gives an object that went with others, and came back alone, what it held then", () => {
    const root = {
      nodes: [new Node(0), new Node(1), new Node(2)],
      others: Array.from({ length: 40 }, () => new Node(9)),
    }
    const graph = new ObjectGraph(root, [])
    const [back] = root.nodes
    const first = graph.take()
    root.nodes.length = 0
    const without = graph.take()
    back!.value = 10
    root.nodes.push(back!)
    const again = graph.take()
    for (const [snapshot, nodes, value] of [
      [first, 3, 0],
      [again, 1, 10],
      [without, 0, -1],
      [again, 1, 10],
    ] as const) {
      back!.value = -1
      graph.restore(snapshot)
      expect(root.nodes).toHaveLength(nodes)
      expect(back!.value).toBe(value)
    }
  })

  it("takes a class's word for what its content is", () => {
    const root = { nodes: [new Node(5)] }
    const graph = new ObjectGraph(root, [], {
      read: (object, values) => {
        if (!(object instanceof Node)) return false
        values.length = 1
        values[0] = object.value
        return true
      },
      write: (object, values, at) => {
        if (!(object instanceof Node)) return false
        object.value = values[at] as number
        return true
      },
    })
    const before = graph.take()
    const [node] = root.nodes
    node!.value = 6
    node!.words.fill(1)
    graph.restore(before)
    expect(node!.value).toBe(5)
    // Left out: neither saved nor put back.
    expect(node!.words[0]).toBe(1)
  })

  it("puts a list back in the array that it had, and leaves what lies behind its length", () => {
    const list = IntList.from([1, 2, 3])
    list.data = Int32Array.of(1, 2, 3, 7)
    const { data } = list
    const root = { list, alias: { data } }
    const graph = new ObjectGraph(root, [], undefined, (object): object is IntList => object instanceof IntList)
    const before = graph.take()
    list.push(4)
    list.push(5)
    expect(list.data).not.toBe(data)
    const after = graph.take()
    list.clear()
    list.push(9)
    graph.restore(before)
    expect(list.data).toBe(data)
    expect(list.toArray()).toEqual([1, 2, 3])
    graph.restore(after)
    expect(list.toArray()).toEqual([1, 2, 3, 4, 5])
    // What nothing else refers to is not kept beyond its length.
    const lone = { list: IntList.from([1, 2]) }
    const other = new ObjectGraph(lone, [], undefined, (object): object is IntList => object instanceof IntList)
    lone.list.length = 1
    const short = other.take()
    lone.list.data[0] = 8
    lone.list.data[1] = 8
    other.restore(short)
    expect([lone.list.length, ...lone.list.data]).toEqual([1, 1, 8])
  })

  it("leaves what is fixed or frozen alone, and follows what is frozen", () => {
    const fixed = { value: 1, inner: { value: 1 } }
    const inner = { value: 1 }
    const root = { fixed, frozen: Object.freeze({ inner }) }
    const graph = new ObjectGraph(root, [fixed])
    const before = graph.take()
    fixed.value = fixed.inner.value = inner.value = 2
    graph.restore(before)
    expect([fixed.value, fixed.inner.value, inner.value]).toEqual([2, 2, 1])
  })

  it("holds what it held at each of many moments, whatever happened between them", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.nat(5), fc.nat(9), fc.integer()), { minLength: 1, maxLength: 60 }), (steps) => {
        const root = { nodes: [new Node(0)], at: 0, numbers: [0.5], words: new Float64Array(2500) }
        const graph = new ObjectGraph(root, [])
        const moments = steps.map(([what, where, value]) => {
          const node = root.nodes[where % root.nodes.length]!
          if (what === 0) root.nodes.push(new Node(value))
          else if (what === 1 && root.nodes.length > 1) root.nodes.splice(where % root.nodes.length, 1)
          else if (what === 2) node.next = root.nodes[Math.abs(value) % root.nodes.length]!
          else if (what === 3) node.byName.set(String(where), node)
          else if (what === 4) root.words[(where * 277) % 2500] = value
          else root.numbers[where] = value
          root.at++
          return { snapshot: graph.take(), seen: structuredClone(plain(root)) }
        })
        for (let i = 0; i < moments.length; i++) {
          const { snapshot, seen } = moments[(i * 7) % moments.length]!
          graph.restore(snapshot)
          expect(plain(root)).toEqual(seen)
        }
      }),
      { numRuns: 60 },
    )
  })
})

/** Content without functions, nodes named by their value. */
const plain = (root: {
  readonly nodes: ReadonlyArray<Node>
  readonly at: number
  readonly numbers: ReadonlyArray<number>
  readonly words: Float64Array
}) => ({
  at: root.at,
  numbers: Array.from(root.numbers, (value) => value ?? null),
  words: root.words,
  nodes: root.nodes.map((node) => [node.value, node.next?.value ?? null, [...node.byName.keys()]]),
})
