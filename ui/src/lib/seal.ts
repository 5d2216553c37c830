// The round seal: strokes within come from an identity, so that each mesh and each device has its own. Decoration: what proves
// anything are the check words.

/** Strokes of the seal of an identity, as a path of a 32 by 32 drawing. */
export function strokes(id: string): string {
  let hash = 2166136261
  const next = () => {
    hash ^= hash << 13
    hash ^= hash >>> 17
    hash ^= hash << 5
    return (hash >>> 0) / 4294967296
  }
  for (const c of id) hash = Math.imul(hash ^ c.charCodeAt(0), 16777619)
  if (hash === 0) hash = 1
  // Chords between eight points of a circle of radius 8: three of them, none twice.
  const point = (i: number) => {
    const angle = (i * Math.PI) / 4 - Math.PI / 2
    return `${(16 + 8 * Math.cos(angle)).toFixed(1)} ${(16 + 8 * Math.sin(angle)).toFixed(1)}`
  }
  const chords = new Set<string>()
  while (chords.size < 3) {
    const from = Math.floor(next() * 8)
    const to = (from + 2 + Math.floor(next() * 5)) % 8
    chords.add([Math.min(from, to), Math.max(from, to)].join())
  }
  return [...chords].map((chord) => chord.split(',').map((i) => point(Number(i)))).map(([a, b]) => `M${a}L${b}`).join('')
}
