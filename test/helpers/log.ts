import { pino } from 'pino'

/** A logger for code under test: silent, unless TEST_LOG names a level. */
export const testLog = pino({ level: process.env.TEST_LOG ?? 'silent' })
