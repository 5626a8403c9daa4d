import { NotFoundError } from '../lib/errors.js'
import { isId } from '../lib/ids.js'
import { DEFAULT_LIMIT } from '../models/dtos/parts.js'
import {
  type Conflict,
  type ConflictQuery,
  type Duplicate,
  type DuplicateQuery,
  EVENT_ID,
  type Event,
  type EventDetail,
  type EventQuery,
  toConflict,
  toDuplicate,
  toEvent,
} from '../models/dtos/review.dto.js'
import { decodeCursor, type Page } from '../repositories/cursor.js'
import type { PrismaClient } from '../repositories/generated/client.js'
import {
  findDuplicateForReview,
  findEvent,
  listConflicts,
  listDuplicates,
  listEvents,
  type PageRequest,
  REVIEW_ORDER,
} from '../repositories/review.js'

import type { Vault } from '../repositories/vault.js'

const isEventId = (id: string) => new RegExp(EVENT_ID).test(id)

export type ReviewService = ReturnType<typeof makeReviewService>

/** Reads what someone may want to look at. Throws `ValidationError` for a made-up cursor, and `NotFoundError`. */
export function makeReviewService({ prisma, vault }: { prisma: PrismaClient; vault: Vault }) {
  return {
    async conflicts(tenantId: string, { status, userId, ...page }: ConflictQuery): Promise<Page<Conflict>> {
      return mapPage(
        await listConflicts(prisma, vault, tenantId, { status, userId }, pageRequest(page, isId)),
        toConflict,
      )
    },

    async duplicates(tenantId: string, { status, ...page }: DuplicateQuery): Promise<Page<Duplicate>> {
      return mapPage(await listDuplicates(prisma, tenantId, { status }, pageRequest(page, isId)), toDuplicate)
    },

    async duplicate(tenantId: string, id: string): Promise<Duplicate> {
      const row = isId(id) ? await findDuplicateForReview(prisma, tenantId, id) : null
      if (row === null) throw new NotFoundError('duplicate', id)
      return toDuplicate(row)
    },

    async events(tenantId: string, { limit, cursor, ...filter }: EventQuery): Promise<Page<Event>> {
      return mapPage(await listEvents(prisma, tenantId, filter, pageRequest({ limit, cursor }, isEventId)), toEvent)
    },

    async event(tenantId: string, id: string): Promise<EventDetail> {
      const row = await findEvent(prisma, vault, tenantId, id)
      if (row === null) throw new NotFoundError('event', id)
      const { payload, ...event } = row
      return { ...toEvent(event), payload }
    },
  }
}

function pageRequest(
  { limit = DEFAULT_LIMIT, cursor }: { limit?: number | undefined; cursor?: string | undefined },
  isId: (id: string) => boolean,
): PageRequest {
  return { limit, after: cursor === undefined ? null : decodeCursor(cursor, REVIEW_ORDER, isId) }
}

function mapPage<A, B>(page: Page<A>, map: (row: A) => B): Page<B> {
  return { ...page, data: page.data.map(map) }
}
