import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { mcNemar, mean } from "./Statistics.ts"

/** What one prompt's answer was under some drop layers, held against dense. */
export interface Measure {
  /** Divergence of the answer from dense, nats. */
  readonly kl: number
  readonly isRight: boolean
  readonly wasRight: boolean
  /** Rows kept after each selection, a share of the prompt. */
  readonly kept: ReadonlyArray<number>
}

/** How much worse than dense a schedule may be. */
export interface Budget {
  /** Most mean divergence of an answer, nats. */
  readonly answerKl: number
  /** Most answers lost, net of those won, as a share of those that dense has right. */
  readonly loss: number
}

export interface Verdict {
  readonly prompts: number
  /** Mean of the prompts that dense has right; of all where it has none. */
  readonly answerKl: number
  readonly lost: number
  readonly won: number
  /** Exact McNemar test against dense, two-sided. */
  readonly pValue: number
  readonly kept: ReadonlyArray<number>
  readonly isSafe: boolean
}

/**
 * Where dense is wrong, another wrong answer in place of its own is no loss, however far they diverge: such prompts count by the answers
 * won alone. Requires at least one measure.
 */
export const verdictOf = (measures: ReadonlyArray<Measure>, budget: Budget): Verdict => {
  const lost = measures.filter(({ wasRight, isRight }) => wasRight && !isRight).length
  const won = measures.filter(({ wasRight, isRight }) => !wasRight && isRight).length
  const right = measures.filter(({ wasRight }) => wasRight)
  const answerKl = mean((right.length > 0 ? right : measures).map(({ kl }) => kl))
  const pValue = mcNemar(lost, won)
  const allowed = budget.loss * right.length
  const isWorse = pValue < 0.05 && lost > won
  return {
    prompts: measures.length,
    answerKl,
    lost,
    won,
    pValue,
    kept: measures[0]!.kept.map((_, i) => mean(measures.map(({ kept }) => kept[i]!))),
    isSafe: answerKl <= budget.answerKl && lost - won <= allowed && !isWorse,
  }
}

/** Prompts before a variant is given up early. */
export const leastPrompts = 5

/** Whether what is left of the prompts, all alike dense, could not make a variant safe any more. Divergences only add up. */
export const isLost = (measures: ReadonlyArray<Measure>, of: number, budget: Budget): boolean => {
  const { prompts, lost, won } = verdictOf(measures, budget)
  if (prompts < leastPrompts) return false
  const sum = measures.reduce((total, { kl, wasRight }) => total + (wasRight ? kl : 0), 0)
  return sum > budget.answerKl * of || lost - won > Math.max(2, budget.loss * of)
}

export const scheduleKey = (layers: ReadonlyArray<DropLayer>): string =>
  layers.map(({ layer, p }) => `${layer}:${p}`).join(",")

/** Points that no other beats both in divergence and in rows kept, by rows. */
export const paretoFront = <A extends { readonly answerKl: number; readonly cost: number }>(
  points: ReadonlyArray<A>,
): ReadonlyArray<A> => {
  const front: Array<A> = []
  for (const point of points.toSorted((a, b) => a.cost - b.cost || a.answerKl - b.answerKl))
    if (front.length === 0 || point.answerKl < front.at(-1)!.answerKl) front.push(point)
  return front
}
