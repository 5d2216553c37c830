// Words of the page. Both catalogues have every key: the type of the second is that of the first.

import { keep, kept } from '../lib/look.svelte'
import { de } from './de'
import { en } from './en'

export type Key = keyof typeof en
type Counted = { [K in Key]: K extends `${infer Base}_other` ? Base : never }[Key]
export type Lang = 'en' | 'de'

const catalogues: Record<Lang, Record<Key, string>> = { en, de }

class Language {
  #lang = $state<Lang>(first())

  get lang(): Lang {
    return this.#lang
  }
  set lang(lang: Lang) {
    this.#lang = lang
    keep('lang', lang)
    document.documentElement.lang = lang
  }
}

function first(): Lang {
  const all = [kept('lang'), ...navigator.languages].map((lang) => (lang ?? '').slice(0, 2))
  const found = (all.find((lang) => lang in catalogues) ?? 'en') as Lang
  document.documentElement.lang = found
  return found
}

export const language = new Language()

/** The language as this browser has it, so that times and numbers are written as where the person lives. */
function locale(): string {
  return navigator.languages.find((one) => one.startsWith(language.lang)) ?? language.lang
}

/** A text, with `{name}` replaced. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  return catalogues[language.lang][key].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole))
}

/** A text about so many. */
export function n(key: Counted, count: number, values: Record<string, string | number> = {}): string {
  const form = new Intl.PluralRules(language.lang).select(count) === 'one' ? 'one' : 'other'
  return t(`${key}_${form}` as Key, { count: number(count), ...values })
}

export const isKey = (key: string): key is Key => key in en

export function number(value: number, digits = 0): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: digits }).format(value)
}

export function bytes(value: number): string {
  const units = ['byte', 'kilobyte', 'megabyte', 'gigabyte']
  let size = value
  let unit = 0
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000
    unit++
  }
  const format = { style: 'unit', unit: units[unit], unitDisplay: unit ? 'short' : 'long', maximumFractionDigits: size < 10 && unit ? 1 : 0 }
  return new Intl.NumberFormat(locale(), format as Intl.NumberFormatOptions).format(size)
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ['second', 60],
  ['minute', 60],
  ['hour', 24],
  ['day', 30],
  ['month', 12],
  ['year', Infinity],
]

/** "2 min ago", "in 4 h". */
export function relative(at: number, now: number): string {
  let value = (at - now) / 1000
  for (const [unit, most] of STEPS) {
    if (Math.abs(value) < most) {
      // A call of a second ago is no news that ticks.
      if (unit === 'second' && Math.abs(value) < 5) return t('time.now')
      return new Intl.RelativeTimeFormat(locale(), { style: 'short', numeric: 'always' }).format(Math.round(value), unit)
    }
    value /= most
  }
  return ''
}

/** A length of time in its two largest units; of less than 10 seconds with a fraction, if it is `exact`. */
export function span(seconds: number, exact = false): string {
  const s = Math.max(0, Math.round(seconds))
  const of = (value: number, unit: string) =>
    new Intl.NumberFormat(locale(), { style: 'unit', unit, unitDisplay: 'short' } as Intl.NumberFormatOptions).format(value)
  if (exact && seconds < 10) return of(Math.max(0.1, Math.round(seconds * 10) / 10), 'second')
  if (s < 60) return of(s, 'second')
  if (s < 3600) return of(Math.floor(s / 60), 'minute') + (s % 60 && s < 600 ? ' ' + of(s % 60, 'second') : '')
  if (s < 86_400) return of(Math.floor(s / 3600), 'hour') + (s % 3600 >= 60 ? ' ' + of(Math.floor((s % 3600) / 60), 'minute') : '')
  return of(Math.floor(s / 86_400), 'day')
}

export function clockTime(at: number, seconds = false): string {
  const day = new Date(at).toDateString() === new Date().toDateString()
  const year = new Date(at).getFullYear() === new Date().getFullYear()
  return new Intl.DateTimeFormat(locale(), {
    ...(day ? {} : { day: 'numeric', month: 'short' }),
    ...(year ? {} : { year: 'numeric' }),
    hour: '2-digit',
    minute: '2-digit',
    ...(seconds ? { second: '2-digit' } : {}),
  }).format(at)
}

export function fullTime(at: number): string {
  return new Intl.DateTimeFormat(locale(), { dateStyle: 'full', timeStyle: 'medium' }).format(at)
}

/** The day alone, with its name; of the last two also how people call them. */
export function dayOf(at: number): string {
  const day = new Intl.DateTimeFormat(locale(), { dateStyle: 'full' }).format(at)
  const back = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(at).setHours(0, 0, 0, 0)) / 86_400_000)
  return back === 0 ? t('day.today', { day }) : back === 1 ? t('day.yesterday', { day }) : day
}

/** As short as a day can be told from its neighbours. */
export function dayShort(at: number): string {
  return new Intl.DateTimeFormat(locale(), { weekday: 'short', day: 'numeric' }).format(at)
}
