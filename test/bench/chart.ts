import { type Goal, isMet, type Row } from './rows.js'
import { short } from './table.js'

const WIDTH = 820
const LABEL = 250
/** Where bars begin and end. */
const LEFT = LABEL + 12
const RIGHT = WIDTH - 150
const HEADING = 26
const BAR_HEIGHT = 13
const STEP = 21
const GAP = 12
const TOP = 26
/** Bars end at so many times the goal; longer ones are broken off there. */
const MOST = 2.5
const MARKS = [1, 2]

/** Legible on white as on black. */
const COLOURS = { text: '#6e7781', met: '#3fa266', missed: '#d1862c' }
const FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"

/** The goals of the rows as a bar chart, SVG: how long a bar is beside the dashed line says how its figure does beside its goal. */
export function chartOf(rows: readonly Row[]): string {
  const parts = MARKS.map((times) => text(place(times), 14, times === 1 ? 'goal' : `${times}×`, { anchor: 'middle' }))
  let y = TOP
  for (const { name, goals } of rows) {
    if (goals.length === 0) continue
    parts.push(text(0, y + 14, name, { weight: 600 }))
    y += HEADING
    const end = y + goals.length * STEP - (STEP - BAR_HEIGHT)
    parts.push(...goals.map((goal, index) => bar(goal, y + index * STEP)))
    parts.push(...MARKS.map((times) => mark(times, y - 4, end + 4)))
    y = end + GAP
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${y}" width="${WIDTH}" height="${y}" role="img"`,
    `  aria-label="Figures of the benchmark beside their goals" font-family="${FONT}" font-size="12" fill="${COLOURS.text}">`,
    ...parts,
    '</svg>\n',
  ].join('\n')
}

function bar(goal: Goal, y: number): string {
  const times = goal.atLeast === undefined ? (goal.atMost ?? 0) / goal.value : goal.value / goal.atLeast
  // What is to stay small and does not even reach zero is as good as can be.
  const length = times >= 0 ? Math.min(times, MOST) : MOST
  const wanted = goal.atLeast === undefined ? `at most ${short(goal.atMost ?? 0)}` : `at least ${short(goal.atLeast)}`
  const colour = isMet(goal) ? COLOURS.met : COLOURS.missed
  const baseline = y + BAR_HEIGHT / 2 + 4
  const width = round(Math.max(2, place(length) - LEFT))
  return [
    text(LABEL, baseline, goal.what, { anchor: 'end' }),
    `<rect x="${LEFT}" y="${y}" width="${width}" height="${BAR_HEIGHT}" rx="2" fill="${colour}"/>`,
    ...(length === MOST ? [text(RIGHT + 2, baseline, '›')] : []),
    text(RIGHT + 14, baseline, `${short(goal.value)} (${wanted})`),
  ].join('\n')
}

function mark(times: number, from: number, to: number): string {
  const style = times === 1 ? 'stroke-dasharray="3 3"' : 'stroke-opacity="0.3"'
  return `<line x1="${place(times)}" x2="${place(times)}" y1="${from}" y2="${to}" stroke="${COLOURS.text}" ${style}/>`
}

/** Where so many times the goal is. */
function place(times: number): number {
  return round(LEFT + (times / MOST) * (RIGHT - LEFT))
}

function text(
  x: number,
  y: number,
  content: string,
  { anchor = 'start', weight = 400 }: { anchor?: 'start' | 'middle' | 'end'; weight?: number } = {},
): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
  return `<text x="${x}" y="${y}" text-anchor="${anchor}" font-weight="${weight}">${escaped}</text>`
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
