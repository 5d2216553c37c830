// Rights as the text that the agent takes: JSON is nearly TOML, with `=` and without null.

export type Json = string | number | boolean | null | undefined | Json[] | { [key: string]: Json }

/** A string of JSON is one of TOML, but for the one character that JSON leaves as it is. */
const text = (value: string) => JSON.stringify(value).replaceAll('\u007f', '\\u007f')

function inline(value: Json): string {
  if (typeof value === 'string') return text(value)
  if (Array.isArray(value)) return `[${value.map(inline).join(', ')}]`
  if (value && typeof value === 'object') return `{ ${pairs(value).join(', ')} }`
  return String(value)
}

function pairs(table: { [key: string]: Json }): string[] {
  return Object.entries(table).flatMap(([key, value]) => (value === null || value === undefined ? [] : [`${text(key)} = ${inline(value)}`]))
}

export function toml(table: { [key: string]: Json }): string {
  return pairs(table).map((line) => line + '\n').join('')
}
