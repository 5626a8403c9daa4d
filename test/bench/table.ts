import { isMet, type Row } from './rows.js'

/** A row as a Markdown table, with what became of its goals. */
export function tableOf({ name, unit, results, goals }: Row): string {
  const figures = [...new Set(Object.values(results).flatMap(Object.keys))]
  const lines = [
    `\n## ${name} (${unit})\n`,
    `| | ${figures.join(' | ')} |`,
    `| --- | ${figures.map(() => '---').join(' | ')} |`,
  ]
  for (const [subject, taken] of Object.entries(results)) {
    const cells = figures.map((figure) => {
      const spread = taken[figure]
      if (spread === undefined) return ''
      const { min, median, max } = spread
      return min === max ? short(median) : `${short(median)} (${short(min)}–${short(max)})`
    })
    lines.push(`| ${subject} | ${cells.join(' | ')} |`)
  }
  lines.push('')
  for (const goal of goals) {
    const wanted = goal.atLeast === undefined ? `at most ${goal.atMost}` : `at least ${goal.atLeast}`
    lines.push(`${isMet(goal) ? 'met' : 'MISSED'}: ${goal.what} = ${short(goal.value)}, wanted ${wanted}`)
  }
  return `${lines.join('\n')}\n`
}

/** Three digits, or all of a larger number's whole ones. */
export function short(value: number): string {
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}
