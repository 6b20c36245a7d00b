/** A number with its noun in the right form: "1 prefill item", "0 decode rows". */
export const counted = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`
