// What somebody has typed and not sent, for as long as the tab is open: a reload takes nothing away.

const KEPT = 'sigil.draft'
/** More is not kept. */
const MOST = 64 * 1024

type Draft = { of: string; value: unknown; text: string; view: 'form' | 'json' }

export function keepDraft(draft: Draft): void {
  try {
    const text = JSON.stringify(draft)
    if (text.length <= MOST) sessionStorage.setItem(KEPT, text)
  } catch {
    // It counts until the reload.
  }
}

/** The draft of this form, if it is the one that was typed last. */
export function keptDraft(of: string): Draft | undefined {
  try {
    const draft = JSON.parse(sessionStorage.getItem(KEPT) ?? 'null') as Draft | null
    return draft?.of === of ? draft : undefined
  } catch {
    return undefined
  }
}

/** Whoever signs out leaves nothing for the next one. */
export function dropDraft(): void {
  try {
    sessionStorage.removeItem(KEPT)
  } catch {
    // There is nothing then.
  }
}
