/** What a key may do. Each route declares the one it needs. */
export const PERMISSIONS = [
  'customers:read',
  'customers:write',
  'customers:erase',
  'customers:export',
  'pii:read',
  'orders:read',
  'orders:write',
  'sync:read',
  'sync:run',
  'reviews:read',
  'reviews:write',
  'events:read',
  'events:replay',
  'runs:read',
  'runs:start',
  'keys:read',
  'keys:write',
  'audit:read',
  'metrics:read',
  'tenant:read',
  'tenant:write',
  'tenants:read',
  'tenants:write',
  'privacy:export',
] as const
export type Permission = (typeof PERMISSIONS)[number]

export const ROLES = ['viewer', 'manager', 'admin', 'operator'] as const
export type Role = (typeof ROLES)[number]

const VIEWER = [
  'customers:read',
  'orders:read',
  'sync:read',
  'reviews:read',
  'events:read',
  'runs:read',
  'metrics:read',
  'tenant:read',
] as const satisfies readonly Permission[]
const MANAGER = [
  ...VIEWER,
  'pii:read',
  'customers:write',
  'customers:export',
  'orders:write',
  'sync:run',
  'reviews:write',
] as const satisfies readonly Permission[]

/** What reaches beyond one tenant. No role of a tenant has any of it. */
const BEYOND = ['tenants:read', 'tenants:write'] as const satisfies readonly Permission[]

/**
 * What each role may do: a viewer reads, with personal data masked; a manager also sees that and changes things; an admin may
 * also do what cannot be undone or costs much, and manage keys, settings and the Stripe account. An operator looks after the
 * installation: makes tenants, and sees nothing of what is in them.
 */
export const ROLE_PERMISSIONS: Readonly<Record<Role, ReadonlySet<Permission>>> = {
  viewer: new Set(VIEWER),
  manager: new Set(MANAGER),
  admin: new Set(PERMISSIONS.filter((permission) => !(BEYOND as readonly Permission[]).includes(permission))),
  operator: new Set([...BEYOND, 'metrics:read']),
}

/** Whether the text names a role. */
export function isRole(value: string): value is Role {
  return (ROLES as readonly string[]).includes(value)
}

/** Whether the text names a permission. */
export function isPermission(value: string): value is Permission {
  return (PERMISSIONS as readonly string[]).includes(value)
}

/** Whether the role has the permission. */
export function allows(role: Role, permission: Permission): boolean {
  return ROLE_PERMISSIONS[role].has(permission)
}

/** What a holder of the role may do whose credentials name scopes: of the role's permissions only these; without any, all. */
export function permissionsOf(role: Role, scopes: readonly string[]): ReadonlySet<Permission> {
  const all = ROLE_PERMISSIONS[role]
  return scopes.length === 0 ? all : new Set([...all].filter((permission) => scopes.includes(permission)))
}
