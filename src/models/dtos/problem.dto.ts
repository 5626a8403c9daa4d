import { type Static, Type } from 'typebox'

/** What a request with a wrong field is answered. */
export const INVALID_EXAMPLE = {
  type: 'urn:lockstep:problem:validation_failed',
  title: 'The request is not valid',
  status: 400,
  detail: 'email: is not an e-mail address',
  code: 'validation_failed',
  requestId: '019a9d6c-5a0e-7c52-9b1f-0d6a4f1e2b3c',
  errors: [{ path: 'email', code: 'invalid_email', message: 'is not an e-mail address' }],
}

/** An error answer, RFC 9457 (`application/problem+json`). */
export const ProblemSchema = Type.Object(
  {
    type: Type.String({ description: 'A URN that names the kind of problem; it ends with `code`.' }),
    title: Type.String({ description: 'The kind of problem in words; the same for every occurrence.' }),
    status: Type.Integer({ description: 'The HTTP status.' }),
    detail: Type.String({
      description: 'What is wrong this time and what to do. Never holds secrets or personal data.',
    }),
    code: Type.String({ description: 'Stable and machine-readable: branch on this one.' }),
    requestId: Type.String({ description: 'Names this request in the logs; quote it when you ask for help.' }),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          path: Type.String({
            description: 'The field, dotted as in the JSON body, or the name of a parameter or header.',
          }),
          code: Type.String({ description: 'Stable and machine-readable.' }),
          message: Type.String(),
        }),
        { description: 'One entry per rejected field.' },
      ),
    ),
    blockers: Type.Optional(
      Type.Array(
        Type.Object({
          kind: Type.String({ description: '`order`.' }),
          id: Type.String(),
          reference: Type.Union([Type.String(), Type.Null()]),
        }),
        { description: 'What stands against it, and has to be seen to first; ten at the most.' },
      ),
    ),
  },
  {
    $id: 'Problem',
    description: 'An error, as RFC 9457 has it.',
    examples: [INVALID_EXAMPLE],
  },
)

export type Problem = Static<typeof ProblemSchema>
