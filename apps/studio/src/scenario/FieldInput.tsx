import { useEffect, useId, useState } from "react"
import type { FieldSpec } from "../protocol/Protocol.ts"
import { Icon } from "../ui/Icon.tsx"
import { shown, valueOf } from "./FieldValue.ts"

interface Props {
  readonly field: FieldSpec
  /** Undefined: the default holds. */
  readonly value: unknown
  readonly fault: string
  readonly onChange: (value: unknown) => void
}

/** A field of the scenario, made from what its schema says of it. */
export const FieldInput = ({ field, value, fault, onChange }: Props) => {
  const id = useId()
  const isSet = value !== undefined
  return (
    <div className={`field${isSet ? " set" : ""}${fault === "" ? "" : " bad"}`}>
      <label htmlFor={id}>
        {field.label}
        {field.unit === "" ? null : <span className="unit"> {field.unit}</span>}
      </label>
      <div className="control">
        <Control id={id} field={field} value={value} fault={fault} onChange={onChange} />
        {isSet ? (
          <button
            type="button"
            className="quiet undo"
            aria-label={`${field.label}: back to ${shown(field.defaultValue)}`}
            title={`back to ${shown(field.defaultValue)}`}
            onClick={() => onChange(undefined)}
          >
            <Icon name="undo" />
          </button>
        ) : null}
      </div>
      <p className="hint" id={`${id}-hint`}>
        {field.description}
      </p>
      {fault === "" ? null : (
        <p className="fault" id={`${id}-fault`} role="alert">
          {fault}
        </p>
      )}
    </div>
  )
}

const Control = ({ id, field, value, fault, onChange }: Props & { readonly id: string }) => {
  const { control, defaultValue } = field
  const described = { "aria-describedby": fault === "" ? `${id}-hint` : `${id}-fault`, "aria-invalid": fault !== "" }
  const now = value === undefined ? defaultValue : value
  if (control.kind === "flag") {
    return (
      <input
        type="checkbox"
        id={id}
        checked={now === true}
        onChange={(event) => onChange(event.target.checked)}
        {...described}
      />
    )
  }
  if (control.kind === "choice") {
    return (
      <select
        id={id}
        value={String(now)}
        onChange={(event) => onChange(control.values.find((one) => String(one) === event.target.value))}
        {...described}
      >
        {control.values.map((one) => (
          <option key={one}>{one}</option>
        ))}
      </select>
    )
  }
  return <TextControl id={id} field={field} value={value} described={described} onChange={onChange} />
}

/** Text that is taken over when it is done: on Enter and on leaving. */
const TextControl = ({
  id,
  field,
  value,
  described,
  onChange,
}: {
  readonly id: string
  readonly field: FieldSpec
  readonly value: unknown
  readonly described: Readonly<Record<string, string | boolean>>
  readonly onChange: (value: unknown) => void
}) => {
  const { control, defaultValue } = field
  const [typed, setTyped] = useState(value === undefined ? "" : shown(value))
  useEffect(() => setTyped(value === undefined ? "" : shown(value)), [value])
  const take = () => {
    const next = valueOf(typed, field)
    if (shown(next) !== (value === undefined ? "undefined" : shown(value))) onChange(next)
  }
  const known = control.kind === "text" ? control.known : []
  return (
    <>
      <input
        id={id}
        value={typed}
        placeholder={shown(defaultValue)}
        inputMode={control.kind === "number" ? "decimal" : "text"}
        list={known.length > 0 ? `${id}-known` : undefined}
        spellCheck={false}
        autoComplete="off"
        onChange={(event) => {
          setTyped(event.target.value)
          // Picked from the list: taken over at once.
          if (known.includes(event.target.value)) onChange(event.target.value)
        }}
        onBlur={take}
        onKeyDown={(event) => {
          if (event.key === "Enter") take()
        }}
        {...described}
      />
      {known.length > 0 ? (
        <datalist id={`${id}-known`}>
          {known.map((name) => (
            <option key={name} value={name} />
          ))}
        </datalist>
      ) : null}
    </>
  )
}
