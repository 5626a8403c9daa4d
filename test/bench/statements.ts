import pg from 'pg'

/** A statement as pg was given it. */
export interface Statement {
  text: string
  values?: unknown[]
  rowMode?: 'array'
}

/** What this process asks Postgres while `work` runs, of what `pattern` matches. */
export async function recordStatements(work: () => Promise<unknown>, pattern: RegExp): Promise<Statement[]> {
  const statements: Statement[] = []
  const query = pg.Client.prototype.query
  const note = (statement: unknown, values: unknown) => {
    const { text, ...rest } = (typeof statement === 'string' ? { text: statement } : statement) as Statement
    if (typeof text !== 'string' || !pattern.test(text)) return
    const given = rest.values ?? (Array.isArray(values) ? (values as unknown[]) : undefined)
    statements.push({
      text,
      ...(given === undefined ? {} : { values: given }),
      ...(rest.rowMode === undefined ? {} : { rowMode: rest.rowMode }),
    })
  }
  pg.Client.prototype.query = function (this: pg.Client, ...args: unknown[]) {
    note(args[0], args[1])
    return Reflect.apply(query, this, args)
  } as typeof query
  try {
    await work()
  } finally {
    pg.Client.prototype.query = query
  }
  return statements
}
