// JSON Schema as far as a form needs it. A schema is text of a stranger: references lead only within it, depth is limited, no
// pattern is run, and whatever is not understood is edited as JSON. The device checks what is sent.

export type Schema = {
  type?: string | string[]
  title?: string
  description?: string
  properties?: Record<string, Schema | boolean>
  required?: string[]
  items?: Schema | boolean
  enum?: unknown[]
  const?: unknown
  oneOf?: (Schema | boolean)[]
  anyOf?: (Schema | boolean)[]
  allOf?: (Schema | boolean)[]
  default?: unknown
  examples?: unknown[]
  format?: string
  minimum?: number
  maximum?: number
  minLength?: number
  maxLength?: number
  minItems?: number
  maxItems?: number
  contentEncoding?: string
  readOnly?: boolean
  $ref?: string
}

export type Kind =
  | { is: 'text'; long: boolean; input: 'text' | 'date' | 'time' | 'email' | 'url' }
  | { is: 'number'; whole: boolean }
  | { is: 'flag' }
  | { is: 'choice'; values: unknown[] }
  | { is: 'object'; fields: [string, Schema][]; required: Set<string> }
  | { is: 'list'; of: Schema }
  | { is: 'variants'; of: Schema[] }
  | { is: 'file' }
  | { is: 'json' }

/** Deeper than this a form is no help any more. */
export const DEPTH_MAX = 5
const FIELDS_MAX = 100

/** Follows references within the schema, and folds `allOf`. */
export function resolve(schema: Schema | boolean | undefined, root: Schema, seen = 0): Schema {
  if (schema === undefined || typeof schema === 'boolean') return {}
  if (seen > 16) return {}
  if (schema.$ref !== undefined) {
    const { $ref, ...rest } = schema
    const found = pointed(root, $ref)
    return { ...resolve(found as Schema | undefined, root, seen + 1), ...rest }
  }
  if (schema.allOf) {
    const { allOf, ...rest } = schema
    return [...allOf, rest].reduce<Schema>((all, one) => {
      const next = resolve(one, root, seen + 1)
      return { ...all, ...next, properties: { ...all.properties, ...next.properties }, required: [...(all.required ?? []), ...(next.required ?? [])] }
    }, {})
  }
  return schema
}

function pointed(root: Schema, ref: string): unknown {
  if (ref === '#') return root
  if (!ref.startsWith('#/')) return undefined
  let at: unknown = root
  for (const part of ref.slice(2).split('/')) {
    const key = decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~')
    if (at === null || typeof at !== 'object' || !Object.hasOwn(at, key)) return undefined
    at = (at as Record<string, unknown>)[key]
  }
  return at
}

function types(schema: Schema): string[] {
  const all = schema.type === undefined ? [] : Array.isArray(schema.type) ? schema.type : [schema.type]
  return all.filter((type) => type !== 'null')
}

/** True if `null` is a value of it. */
export function nullable(schema: Schema): boolean {
  return Array.isArray(schema.type) && schema.type.includes('null')
}

/** What to draw for a schema that is resolved. */
export function kindOf(schema: Schema, root: Schema, depth: number): Kind {
  if (schema.const !== undefined) return { is: 'choice', values: [schema.const] }
  if (Array.isArray(schema.enum)) return schema.enum.length <= 200 ? { is: 'choice', values: schema.enum } : { is: 'json' }
  const variants = schema.oneOf ?? schema.anyOf
  if (Array.isArray(variants) && variants.length) {
    if (depth >= DEPTH_MAX) return { is: 'json' }
    const { oneOf: _a, anyOf: _b, ...base } = schema
    const all = variants.map((one) => resolve(one, root)).filter((one) => one.type !== 'null')
    const merged = all.map((one) => (base.properties ? { ...base, ...one, properties: { ...base.properties, ...one.properties }, required: [...(base.required ?? []), ...(one.required ?? [])] } : { ...base, ...one }))
    const [only] = merged
    if (merged.length === 1 && only) return kindOf(only, root, depth)
    return merged.length <= 20 ? { is: 'variants', of: merged } : { is: 'json' }
  }
  const all = types(schema)
  const type = all.length === 1 ? all[0] : all.length === 0 && schema.properties ? 'object' : undefined
  switch (type) {
    case 'string': {
      if (schema.contentEncoding === 'base64') return { is: 'file' }
      const input = ({ date: 'date', time: 'time', email: 'email', uri: 'url' } as const)[schema.format ?? ''] ?? 'text'
      return { is: 'text', long: input === 'text' && (schema.maxLength ?? 0) > 200, input }
    }
    case 'number':
    case 'integer':
      return { is: 'number', whole: type === 'integer' }
    case 'boolean':
      return { is: 'flag' }
    case 'object': {
      const names = Object.keys(schema.properties ?? {})
      if (depth >= DEPTH_MAX || names.length > FIELDS_MAX || names.length === 0) return { is: 'json' }
      const fields = names.map((name) => [name, resolve(schema.properties?.[name], root)] as [string, Schema])
      const required = new Set(schema.required ?? [])
      // What is needed comes first: the order of the tool's author is not kept on the way.
      const first = (name: string) => (required.has(name) ? 0 : 1)
      return { is: 'object', fields: fields.filter(([, field]) => !field.readOnly).toSorted(([a], [b]) => first(a) - first(b)), required }
    }
    case 'array':
      return depth >= DEPTH_MAX || schema.items === undefined || typeof schema.items === 'boolean' ? { is: 'json' } : { is: 'list', of: resolve(schema.items, root) }
    default:
      return { is: 'json' }
  }
}

/** The value to begin with; `undefined` leaves a member out. */
export function initial(schema: Schema, root: Schema, depth: number, required: boolean): unknown {
  if (schema.default !== undefined) return structuredClone(schema.default)
  const kind = kindOf(schema, root, depth)
  if (kind.is === 'choice' && kind.values.length === 1 && required) return kind.values[0]
  if (!required) return undefined
  switch (kind.is) {
    case 'object':
      return Object.fromEntries(kind.fields.map(([name, field]) => [name, initial(field, root, depth + 1, kind.required.has(name))] as const).filter(([, value]) => value !== undefined))
    case 'list':
      return []
    case 'flag':
      return false
    case 'variants':
      return kind.of[0] ? initial(kind.of[0], root, depth + 1, true) : undefined
    default:
      return undefined
  }
}

/** What of required members is missing, as JSON pointers. */
export function missing(value: unknown, schema: Schema, root: Schema, depth = 0, at = ''): string[] {
  const kind = kindOf(schema, root, depth)
  if (kind.is !== 'object' || value === null || typeof value !== 'object') return []
  return kind.fields.flatMap(([name, field]) => {
    const member = (value as Record<string, unknown>)[name]
    const pointer = `${at}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`
    if (member === undefined) return kind.required.has(name) ? [pointer] : []
    return missing(member, field, root, depth + 1, pointer)
  })
}

/** The variant that a value is of, as far as its members tell. */
export function variantOf(value: unknown, variants: Schema[], root: Schema): number {
  const fits = (schema: Schema): number => {
    const kind = kindOf(schema, root, 0)
    if (value === undefined) return 0
    if (kind.is === 'text' || kind.is === 'file') return typeof value === 'string' ? 1 : -1
    if (kind.is === 'number') return typeof value === 'number' ? 1 : -1
    if (kind.is === 'flag') return typeof value === 'boolean' ? 1 : -1
    if (kind.is === 'list') return Array.isArray(value) ? 1 : -1
    if (kind.is === 'choice') return kind.values.includes(value) ? 2 : -1
    if (kind.is === 'object') {
      if (value === null || typeof value !== 'object' || Array.isArray(value)) return -1
      let score = 1
      for (const [name, field] of kind.fields) {
        const member = (value as Record<string, unknown>)[name]
        if (field.const !== undefined && member !== undefined) score += member === field.const ? 10 : -10
        else if (member !== undefined) score += 1
      }
      return score
    }
    return 0
  }
  let best = 0
  let most = -Infinity
  variants.forEach((schema, i) => {
    const score = fits(schema)
    if (score > most) [best, most] = [i, score]
  })
  return best
}
