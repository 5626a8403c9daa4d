/** How a file of customers is written: RFC 4180 with a header, or a JSON object in each line. */
export const FILE_FORMATS = ['csv', 'ndjson'] as const
export type FileFormat = (typeof FILE_FORMATS)[number]

/** What becomes of a line whose customer is there already. */
export const ON_MATCH = ['skip', 'update', 'fail'] as const
export type OnMatch = (typeof ON_MATCH)[number]

export const IMPORT_STATUSES = ['uploading', 'queued', 'running', 'succeeded', 'failed', 'cancelled'] as const
export type ImportStatus = (typeof IMPORT_STATUSES)[number]

/**
 * What an import came to, in lines. `created`, `updated`: customers written. `unchanged`: had the line's values already.
 * `skipped`: was there already, or is not active in the file. `failed`: refused, with a reason of its own.
 */
export interface ImportCounts {
  created: number
  updated: number
  unchanged: number
  skipped: number
  failed: number
}

export const NOTHING_IMPORTED: Readonly<ImportCounts> = Object.freeze({
  created: 0,
  updated: 0,
  unchanged: 0,
  skipped: 0,
  failed: 0,
})

/** A row of `imports`: a file of customers, and how far it is. */
export interface Import {
  id: string
  tenantId: string
  /** `api`: the file was uploaded, a worker goes through it. `cli`: whoever runs the command has the file. */
  source: 'api' | 'cli'
  format: FileFormat
  onMatch: OnMatch
  /** Only says what would happen. */
  dryRun: boolean
  status: ImportStatus
  /** Of the uploaded file. */
  bytes: number
  /** How many lines of the file are done, blank ones and the header not counted. */
  lines: number
  /** SHA-256 of these lines; null before the first. */
  digest: string | null
  counts: ImportCounts
  /** Why it ended before the file did; null when it did not. */
  error: { code: string; message: string } | null
  requestedBy: string
  requestId: string | null
  ip: string | null
  createdAt: Date
  startedAt: Date | null
  finishedAt: Date | null
}
