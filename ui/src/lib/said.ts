// A sentence of the agent, as the page writes it: times as the person reads them.

import { clockTime } from '../i18n/index.svelte'

/** The sentence with times of this browser in place of those of machines. */
export function timed(text: string): string {
  return text.replace(/\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z/g, (time) => clockTime(Date.parse(time), true))
}
