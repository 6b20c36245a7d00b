import { Schema } from "effect"

/**
 * Why a model directory could not be used: a file is missing or unreadable, is not JSON, has a field that is wrong, or asks
 * for something this project does not implement.
 */
export class ModelError extends Schema.TaggedError<ModelError>()("ModelError", {
  reason: Schema.Literals(["MissingFile", "Unreadable", "InvalidJson", "InvalidField", "Unsupported", "InvalidChoice"]),
  /** The file at fault, as a path that can be opened; or the option, where no file is. */
  file: Schema.String,
  /** Path of the field inside the file, `rope_scaling.factor`, or null. */
  field: Schema.NullOr(Schema.String),
  detail: Schema.String,
}) {
  override get message(): string {
    return this.field === null ? `${this.file}: ${this.detail}` : `${this.file}: ${this.field}: ${this.detail}`
  }
}
