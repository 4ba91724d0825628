#!/usr/bin/env bash
# Back up what the running stack of docker-compose.yml must not lose: its databases, and the blobs of its S3 bucket.
#   scripts/backup.sh DIRECTORY
# Run it again on the same directory: the databases are dumped anew, of the blobs only what is new is fetched. Nothing has to be stopped,
# but do not run `tessera gc` meanwhile. Redis is left out: what was queued is queued again from the databases.
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/backup.sh DIRECTORY" >&2; exit 2; }
umask 077
mkdir -p "$1/databases" "$1/blobs"
directory=$(cd "$1" && pwd)
incoming=$directory/incoming
cd "$(dirname "$0")/.."
rm -rf "$incoming"
mkdir -p "$incoming/databases" "$incoming/blobs"

# Databases before blobs: whatever a database names is in the bucket by then. The registry's last: the others name its versions.
for database in trainer inference registry; do
  docker compose exec -T postgres pg_dump --username postgres --format custom "$database" >"$incoming/databases/$database.dump"
done

set +e
find "$directory/blobs" -type f -printf '%f\n' \
  | docker compose exec -T registry python -m services.registry.archive pack \
  | tar --extract --directory "$incoming/blobs"
status=("${PIPESTATUS[@]}")
set -e
[ "${status[2]}" = 0 ] || { echo "the blobs did not arrive whole; the backup in $directory is as it was" >&2; exit 1; }

find "$incoming/blobs" -type f -exec mv --target-directory "$directory/blobs" {} +
mv "$incoming"/databases/*.dump "$directory/databases/"
rm -rf "$incoming"
echo "backed up 3 databases and $(find "$directory/blobs" -type f | wc -l) blobs in $directory"
exit "${status[1]}" # 1 if a blob is damaged, which the registry has named
