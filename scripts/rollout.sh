#!/usr/bin/env bash
# Replace the containers of one service of the running stack of docker-compose.yml, one by one, each when the one before it is well.
#   docker compose build SERVICE && scripts/rollout.sh SERVICE
# Containers that have the newest image and settings already stay. Where there are several, the others serve meanwhile. If a new one does
# not get well, this ends with 1 and leaves the others as they are; run it again when that is mended.
set -euo pipefail
[ $# = 1 ] || { echo "usage: scripts/rollout.sh SERVICE" >&2; exit 2; }
service=$1
cd "$(dirname "$0")/.."

fail() { # why, exit code
  echo "rollout.sh: $1" >&2
  exit "$2"
}

of() { # container, what about it
  docker inspect --format "{{$2}}" "$1"
}

label() { # container, name
  of "$1" "index .Config.Labels \"com.docker.compose.$2\""
}

is_current() { # container
  [ "$(label "$1" config-hash)" = "$settings" ] \
    && [ "$(label "$1" image)" = "$(docker image inspect --format '{{.Id}}' "$(of "$1" .Config.Image)" 2>/dev/null)" ]
}

is_well() { # container
  [ "$(of "$1" .State.Status)" = running ] && [ "$(of "$1" .State.Health.Status)" = healthy ]
}

fill_up() { # to as many containers as there were, all of them well; those that are there are not touched
  docker compose up --detach --wait --wait-timeout 300 --no-deps --no-recreate --scale "$service=$count" "$service" \
    || fail "$service does not get well, see \"docker compose logs $service\"; $1" 1
}

containers=$(docker compose ps --all --quiet "$service")
count=$(wc -w <<<"$containers")
[ "$count" -gt 0 ] || fail "$service has no container; \"docker compose up --detach --wait\" starts the stack" 2
settings=$(docker compose config --hash "$service" | cut -d ' ' -f 2)

old=
for container in $containers; do
  if is_current "$container"; then continue; fi
  if is_well "$container"; then old="$old $container"; else old="$container $old"; fi # first what serves nobody
done
# shellcheck disable=SC2086 # a word for each container
set -- $old
if [ $# = 0 ] || is_well "$1"; then fill_up "nothing was replaced"; fi
[ $# -gt 0 ] || { echo "$service: all of $count are current"; exit 0; }
[ "$count" -gt 1 ] || echo "$service has one container: what is asked of it before the new one is well has to be asked again"

for container in "$@"; do
  name=$(of "$container" .Name)
  docker stop "$container" >/dev/null # SIGTERM: it ends or gives back what it has, within the time that docker-compose.yml grants
  docker rm "$container" >/dev/null
  fill_up "it was to take the place of ${name#/}, and the others were left as they are"
  echo "$service: replaced ${name#/}"
done
