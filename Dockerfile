# Lockstep for production: nothing embedded, so DATABASE_URL, STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET and
# LOCKSTEP_ENCRYPTION_KEY are needed (see .env.example).
#   docker build -t lockstep . && docker run --env-file .env -p 3000:3000 lockstep

FROM node:20-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# Without scripts: `prepare` would build, before the sources are there; none of the others is needed to build.
RUN npm ci --ignore-scripts
COPY prisma.config.ts tsconfig.json tsconfig.build.json ./
COPY prisma ./prisma
COPY src ./src
RUN npm run build && npm prune --omit=dev --omit=optional --ignore-scripts

FROM node:20-slim
# One arena for malloc: each thread's own would hold on to some megabytes, 30 in all.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=3000 MALLOC_ARENA_MAX=1
WORKDIR /app
COPY --from=build /app/package.json ./
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/prisma ./prisma
COPY --from=build /app/dist ./dist
# Owned by root and run by another: the process cannot change its own code.
USER node
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/health/live`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# Not through npm, which would not hand on signals.
CMD ["node", "dist/cli.js", "start"]
