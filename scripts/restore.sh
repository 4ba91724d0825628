#!/usr/bin/env bash
# Restore a backup of scripts/backup.sh into the stack of docker-compose.yml, which must be down and empty.
#   scripts/restore.sh DIRECTORY
# Afterwards `docker compose up -d --wait` starts the services on what was restored.
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/restore.sh DIRECTORY" >&2; exit 2; }
[ -d "$1" ] || { echo "no backup: there is no directory $1" >&2; exit 1; }
directory=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
for database in registry trainer inference; do
  [ -s "$directory/databases/$database.dump" ] || { echo "no backup: $directory/databases/$database.dump is missing" >&2; exit 1; }
done
if [ -n "$(docker compose ps --quiet registry trainer inference)" ]; then
  echo "the services run: docker compose down" >&2
  exit 1
fi

postgres="docker compose exec -T postgres"
docker compose up --detach --wait postgres minio
if [ -n "$($postgres psql --username postgres --dbname registry --tuples-only --command 'SELECT 1 FROM models LIMIT 1' 2>/dev/null)" ]; then
  echo "the registry is not empty; docker compose down --volumes would empty it, and forget everything in it" >&2
  exit 1
fi

# Blobs before the databases that name them.
find "$directory/blobs" -type f -printf '%f\n' \
  | tar --create --directory "$directory/blobs" --files-from - \
  | docker compose run --rm --no-deps --no-TTY --entrypoint python registry -m services.registry.archive unpack
for database in registry trainer inference; do
  $postgres pg_restore --username postgres --dbname "$database" --role "$database" --no-owner --clean --if-exists --single-transaction \
    <"$directory/databases/$database.dump"
  echo "database $database restored"
done
