// What somebody has put off. It is shown again as soon as it says something else, or has been gone meanwhile: nothing is put off for ever.

import { keep, kept } from './look.svelte'

type Finding = { id: string; state: string; cause: string }

function read(): string[] {
  try {
    const all: unknown = JSON.parse(kept('snoozed') ?? '[]')
    return Array.isArray(all) ? all.filter((one) => typeof one === 'string') : []
  } catch {
    return []
  }
}

/** What it says, whatever its numbers are: free bytes and seconds change all the time. */
const says = (finding: Finding) => `${finding.id} ${finding.state} ${finding.cause.replace(/\d+([.,:]\d+)*/g, '#')}`

class Snoozed {
  #all = $state.raw(read())

  has(finding: Finding): boolean {
    return this.#all.includes(says(finding))
  }
  put(finding: Finding): void {
    this.#set([...this.#all, says(finding)])
  }
  take(finding: Finding): void {
    this.#set(this.#all.filter((one) => one !== says(finding)))
  }
  /** Forgets what is not there any more, or is something else by now. */
  tidy(findings: Finding[]): void {
    const still = this.#all.filter((one) => findings.some((finding) => says(finding) === one))
    if (still.length < this.#all.length) this.#set(still)
  }
  #set(all: string[]): void {
    this.#all = all
    keep('snoozed', JSON.stringify(all))
  }
}

export const snoozed = new Snoozed()
