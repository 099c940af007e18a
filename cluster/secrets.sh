#!/bin/sh
# Write the token and the passwords of cluster/compose.yaml into cluster/secrets, once: files that exist stay.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets # nobody else enters; the files themselves are read by the users of the containers
new() {
    [ -s "secrets/$1" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "secrets/$1"
    chmod 644 "secrets/$1"
}
for name in ray_token postgres_password grafana_password; do new "$name"; done
printf 'postgresql://geopipe:%s@postgres/geopipe' "$(cat secrets/postgres_password)" > secrets/dsn
chmod 644 secrets/dsn
