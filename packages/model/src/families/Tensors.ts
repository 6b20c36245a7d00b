import type { AttentionSpec, MoeSpec } from "../ModelSpec.ts"

type Named = Readonly<Record<string, string>>

/** Projections of an attention layer by role; `at`: the prefix of their names, dot included. */
export const attentionTensors = (
  at: string,
  { qkNorm, bias }: AttentionSpec,
): { readonly weights: Named; readonly biases: Named } => {
  const q = `${at}q_proj`
  const k = `${at}k_proj`
  const v = `${at}v_proj`
  const o = `${at}o_proj`
  const norms = { qNorm: `${at}q_norm.weight`, kNorm: `${at}k_norm.weight` }
  return {
    weights: {
      q: `${q}.weight`,
      k: `${k}.weight`,
      v: `${v}.weight`,
      o: `${o}.weight`,
      ...(qkNorm === null ? {} : norms),
    },
    biases: {
      ...(bias === "none" ? {} : { qBias: `${q}.bias`, kBias: `${k}.bias`, vBias: `${v}.bias` }),
      ...(bias === "qkvo" ? { oBias: `${o}.bias` } : {}),
    },
  }
}

export const mlpTensors = (at: string): { readonly weights: Named; readonly biases: Named } => ({
  weights: { gate: `${at}gate_proj.weight`, up: `${at}up_proj.weight`, down: `${at}down_proj.weight` },
  biases: { gateBias: `${at}gate_proj.bias`, upBias: `${at}up_proj.bias`, downBias: `${at}down_proj.bias` },
})

/** Router and experts, which lie fused, [experts × 2 inner × hidden] with the gate first, or one by one. */
export const expertTensors = (at: string, { sharedInner }: MoeSpec, present: ReadonlySet<string>): Named => {
  const expert = `${at}experts.{e}.`
  const isFused = present.has(`${at}experts.gate_up_proj`)
  const shared = `${at}shared_expert.`
  return {
    router: `${at}gate.weight`,
    ...(isFused
      ? { expertGateUp: `${at}experts.gate_up_proj`, expertDown: `${at}experts.down_proj` }
      : {
          expertGate: `${expert}gate_proj.weight`,
          expertUp: `${expert}up_proj.weight`,
          expertDown: `${expert}down_proj.weight`,
        }),
    ...(sharedInner === 0
      ? {}
      : {
          sharedGate: `${shared}gate_proj.weight`,
          sharedUp: `${shared}up_proj.weight`,
          sharedDown: `${shared}down_proj.weight`,
          sharedExpertGate: `${at}shared_expert_gate.weight`,
        }),
  }
}
