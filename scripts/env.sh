#!/usr/bin/env bash
# Makes what docker-compose.yml needs and nobody else may have: passwords in .env, certificates and tokens in secrets/, and the profile of
# the `tessera` command that shows them (`tessera --profile compose`). What is there already stays; what is missing is made. Needs openssl.
#
#   scripts/env.sh                       in this checkout
#   scripts/env.sh --dir DIR             elsewhere; then `docker compose --env-file DIR/.env ...`
#   scripts/env.sh --port-base N         published ports from N on (registry N+10, trainer N+20, inference N+1) instead of 8000
#   scripts/env.sh --renew               sign the certificates of the services again; they read them without a restart
#
# To replace a token or a key, empty its file (`: > secrets/client.token`) and run this again.
set -euo pipefail
umask 077

CA_DAYS=3650
CERTIFICATE_DAYS=397
SERVICES="registry trainer inference"
IDENTITIES="operator:operator worker:publisher trainer:publisher inference:publisher client:reader" # name:role

fail() {
  echo "env.sh: $1" >&2
  exit 2
}

dir=$(cd "$(dirname "$0")/.." && pwd)
checkout=$dir
port_base=8000
prometheus_port=9090
grafana_port=3000
renew=false
while [ $# -gt 0 ]; do
  case "$1" in
    --dir)
      [ -n "${2:-}" ] || fail "--dir takes a directory"
      mkdir -p "$2"
      dir=$(cd "$2" && pwd)
      shift 2
      ;;
    --port-base)
      [[ "${2:-}" =~ ^[1-9][0-9]{3,4}$ && "$2" -le 65000 ]] || fail "--port-base takes a port, 1000 to 65000"
      port_base=$2
      prometheus_port=$((port_base + 90))
      grafana_port=$((port_base + 30))
      shift 2
      ;;
    --renew)
      renew=true
      shift
      ;;
    -h | --help)
      sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *) fail "unknown option $1; --help lists them" ;;
  esac
done
command -v openssl >/dev/null || fail "openssl is needed"

env=$dir/.env
secrets=$dir/secrets

# Files are written in place: a container holds the file itself, not its name, and would not see a new one.
write() { # file, its content from the standard input
  local content
  content=$(cat)
  [ -n "$content" ] || fail "$1 could not be made"
  [ -s "$1" ] || echo "made $1"
  echo "$content" >"$1"
  case "$1" in
    *ca.key | "$env") chmod 600 "$1" ;;
    *) chmod 644 "$1" ;; # read by the user of a container; the directory keeps others away
  esac
}

variable() { # name, value, comment: append a variable that .env does not set
  grep -q "^$1=" "$env" || printf '# %s\n%s=%s\n\n' "$3" "$1" "$2" >>"$env"
}

password() { # name, whose
  variable "$1" "$(openssl rand -hex 24)" "password of $2"
}

value() { # name of a variable of .env
  sed -n "s/^$1=//p" "$env" | tail -n 1
}

make_env() {
  [ -e "$env" ] || echo "# Secrets and settings of docker-compose.yml, made by scripts/env.sh; keep it to yourself." | write "$env"
  variable COMPOSE_PROFILES minimal,observability "minimal or gpu; observability, or metrics for a Prometheus alone; or neither"
  variable SECRETS_DIR "'$([ "$dir" = "$checkout" ] && echo ./secrets || echo "$secrets")'" "certificates and tokens"
  variable REGISTRY_PORT $((port_base + 10)) "published on 127.0.0.1, like the ports below"
  variable TRAINER_PORT $((port_base + 20)) "published port"
  variable INFERENCE_PORTS "${INFERENCE_PORTS:-$((port_base + 1))}" "a port for each inference server: 8001, or 8101-8103 for three"
  variable PROMETHEUS_PORT "$prometheus_port" "published port"
  variable GRAFANA_PORT "$grafana_port" "published port"
  variable OTLP_ENDPOINT http://collector:4317 "where traces go; empty for no traces"
  variable S3_ACCESS_KEY "$(openssl rand -hex 10)" "name of the S3 key, of MinIO or of the S3 server that takes its place"
  password S3_SECRET_KEY "the S3 key"
  password POSTGRES_PASSWORD "PostgreSQL's administrator"
  password REGISTRY_DATABASE_PASSWORD "the registry's database"
  password TRAINER_DATABASE_PASSWORD "the trainer's database"
  password INFERENCE_DATABASE_PASSWORD "the database of queued inference"
  password REDIS_PASSWORD "Redis"
  password GRAFANA_PASSWORD "Grafana's user admin"
}

make_key() { # file
  [ -s "$1" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null | write "$1"
}

make_ca() {
  [ -s "$secrets/ca.pem" ] && return
  make_key "$secrets/ca.key"
  openssl req -x509 -new -key "$secrets/ca.key" -sha256 -days $CA_DAYS -config /dev/stdin <<CONFIG | write "$secrets/ca.pem"
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = Tessera of $(hostname | cut -c 1-32), $(date +%Y-%m-%d)
[extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONFIG
}

sign() { # service: print a certificate for its key, good for its name in the containers' network and for this machine
  openssl req -new -key "$secrets/$1.key" -config /dev/stdin <<CONFIG |
[req]
prompt = no
distinguished_name = name
[name]
CN = $1
CONFIG
    openssl x509 -req -CA "$secrets/ca.pem" -CAkey "$secrets/ca.key" -set_serial "0x$(openssl rand -hex 16)" -sha256 \
      -days $CERTIFICATE_DAYS -extfile <(printf '%s\n' \
        "subjectAltName = DNS:$1, DNS:localhost, IP:127.0.0.1" "basicConstraints = critical, CA:FALSE" \
        "keyUsage = critical, digitalSignature" "extendedKeyUsage = serverAuth" \
        "subjectKeyIdentifier = hash" "authorityKeyIdentifier = keyid") 2>/dev/null
}

is_good() { # service: tell whether it has a certificate that the authority vouches for and that has not expired
  [ -s "$secrets/$1.pem" ] && openssl verify -CAfile "$secrets/ca.pem" -untrusted "$secrets/$1.pem" "$secrets/$1.pem" >/dev/null 2>&1
}

make_certificate() { # service
  if [ -s "$secrets/$1.key" ] && is_good "$1" && ! $renew; then return; fi
  [ "$(openssl x509 -in "$secrets/ca.pem" -noout -pubkey)" = "$(openssl pkey -in "$secrets/ca.key" -pubout 2>/dev/null)" ] ||
    fail "$secrets/ca.key is not the key of ca.pem, so no certificate can be signed: put it back, or empty ca.pem to have a new authority"
  make_key "$secrets/$1.key"
  sign "$1" | write "$secrets/$1.pem"
  echo "signed $secrets/$1.pem until $(openssl x509 -in "$secrets/$1.pem" -noout -enddate | cut -d = -f 2)"
}

make_token() { # identity, role: a token, and its digest among those that the services know
  local file=$secrets/$1.token tokens=$secrets/tokens digest others
  [ -s "$file" ] || openssl rand -hex 32 | write "$file"
  digest=$(tr -d '\n' <"$file" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
  [ -e "$tokens" ] || echo "# sha256-of-token role identity" | write "$tokens"
  if ! grep -q "^$digest " "$tokens"; then
    others=$(grep -v " $1\$" "$tokens" || true)
    printf '%s\n' "$others" "$digest $2 $1" | write "$tokens"
  fi
}

inference_address() { # of the one server, or of all on a range of ports, in gRPC's notation
  local ports=${INFERENCE_PORTS:-$(value INFERENCE_PORTS)} servers
  servers=$(seq --format '127.0.0.1:%.0f' --separator , "${ports%-*}" "${ports#*-}")
  [[ "$ports" == *-* ]] && servers=ipv4:$servers
  echo "$servers"
}

make_profile() {
  local file=${TESSERA_HOME:-$HOME/.tessera}/profiles/compose.toml content
  content=$(
    cat <<PROFILE
# The stack of $dir/.env, for \`tessera --profile compose\`.
registry = "127.0.0.1:$(value REGISTRY_PORT)"
trainer = "127.0.0.1:$(value TRAINER_PORT)"
inference = "$(inference_address)"
tls_ca = '$secrets/ca.pem'
token_file = '$secrets/operator.token'
PROFILE
  )
  if [ ! -e "$file" ]; then
    mkdir -p "$(dirname "$file")"
    echo "$content" | write "$file"
  elif [ "$content" != "$(cat "$file")" ]; then
    echo "env.sh: $file stays as it is, but differs from what this stack needs; remove it and run this again to have it made anew" >&2
  fi
}

make_env
mkdir -p "$secrets"
chmod 700 "$secrets"
make_ca
for service in $SERVICES; do make_certificate "$service"; done
for identity in $IDENTITIES; do make_token "${identity%:*}" "${identity#*:}"; done
make_profile
echo "$env and $secrets are complete"
