// Text of strangers: names, descriptions, outputs. Svelte writes it as text; what would steer the eye is shown as it is spelled.

/** Controls but line break and tab, and what turns the direction of text or hides in it. */
const STEERS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g

/** The text with what is not seen in it spelled out. */
export function plain(text: string): string {
  return text.replace(STEERS, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Commands in backticks, apart from the words around them. */
export function spelled(text: string): { code: boolean; text: string }[] {
  return text.split('`').map((part, i) => ({ code: i % 2 === 1, text: plain(part) }))
}

/** The first command of `sigil` in it. */
export function commandIn(text: string): string | undefined {
  return /`(sigil [^`]+)`/.exec(text)?.[1]
}

/** A file name that is one. */
export function fileName(name: string): string {
  return plain(name).replace(/[/\\:]/g, '_').slice(0, 120) || 'result'
}

/** A random text for an `Idempotency-Key`. */
export function randomKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  return 'web-' + Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('')
}
