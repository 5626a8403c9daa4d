import { defineConfig } from 'prisma/config'

// Generating the client needs no schema engine, yet the CLI looks for one and would download it. Any existing file
// satisfies the check, so `npm ci` works without reaching anything but the package registry.
if (process.argv.includes('generate')) process.env.PRISMA_SCHEMA_ENGINE_BINARY ??= process.execPath

export default defineConfig({
  schema: 'prisma/schema.prisma',
  migrations: { path: 'prisma/migrations' },
})
