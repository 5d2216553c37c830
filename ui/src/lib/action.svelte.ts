// A deed of the person: under way, or why it failed. What it did is seen in the answers of the agent, not here.

import { problemOf, type Problem } from '../api/client'

export class Action {
  busy = $state(false)
  problem = $state.raw<Problem | undefined>()

  /** Runs it, unless it is under way; true if it was done. */
  async run(deed: () => Promise<unknown>): Promise<boolean> {
    if (this.busy) return false
    this.busy = true
    this.problem = undefined
    try {
      await deed()
      return true
    } catch (error) {
      this.problem = problemOf(error)
      return false
    } finally {
      this.busy = false
    }
  }
}
