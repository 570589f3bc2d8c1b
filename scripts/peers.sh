# shellcheck shell=bash
# Words that the scripts share: where things are kept, what to say, and the other side's tools (a
# registry on a free loopback port). Sourced, never run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export NACRE_CACHE=${NACRE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nacre}
# Tools that a script has installed for itself come last: what the user has wins.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin:/usr/local/go/bin:$NACRE_CACHE/tools/bin

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# containerd 2 lies beside Debian's containerd, out of PATH.
# shellcheck disable=SC2034
containerd2=$NACRE_CACHE/tools/containerd2/bin
# So does a skopeo that knows key providers.
# shellcheck disable=SC2034
skopeo2=$NACRE_CACHE/tools/skopeo2/bin

# The services of a private Sigstore, and a cosign of the second version beside the third.
# shellcheck disable=SC2034
sigstore=$NACRE_CACHE/tools/sigstore/bin

# Runs a command as root, by sudo where that is needed.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo; then
    sudo --preserve-env=NACRE_CACHE,PATH,CI "$@"
  else
    die "must be root to run: $* (there is no sudo here)"
  fi
}

# Seconds with nanoseconds, for measuring.
now() { date +%s.%N; }

# `b - a` with three digits.
elapsed() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", b - a }'; }

# The middle of its arguments; the mean of the middle two if they are even in number.
median() {
  printf '%s\n' "$@" | sort -n | awk '
    { v[NR] = $1 }
    END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# A TCP port of the loopback interface that nobody listens on. `ss` would be a package more.
free_port() {
  local port
  for port in $(shuf -i 20000-32000 -n 50); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
  die "no free port on the loopback interface"
}

# start_registry DIRECTORY [accesslog]: Debian's docker-registry on a free loopback port, data and log
# under DIRECTORY; on request, the log has a line for each answer. Sets `registry` (HOST:PORT) and
# `registry_pid`; the caller stops it.
start_registry() {
  local directory=$1 port no_access_log=true
  if [ "${2-}" = accesslog ]; then
    no_access_log=false
  fi
  port=$(free_port)
  mkdir -p "$directory/data"
  cat >"$directory/config.yml" <<YAML
version: 0.1
log:
  level: warn
  accesslog:
    disabled: $no_access_log
storage:
  filesystem:
    rootdirectory: $directory/data
  delete:
    enabled: true
http:
  addr: 127.0.0.1:$port
YAML
  registry=127.0.0.1:$port
  serve_registry "$directory"
}

# serve_registry DIRECTORY: starts the registry that start_registry made, once more.
serve_registry() {
  local directory=$1 attempt
  docker-registry serve "$directory/config.yml" >>"$directory/log" 2>&1 </dev/null &
  registry_pid=$!
  for attempt in $(seq 100); do
    if curl --silent --fail "http://$registry/v2/" >/dev/null; then
      return
    fi
    kill -0 "$registry_pid" 2>/dev/null || die "docker-registry ended: $(tail -n 5 "$directory/log")"
    sleep 0.1
  done
  die "docker-registry does not answer on $registry after $attempt tries"
}

# Bytes of all layers of an OCI layout's one image: layout_layer_bytes DIRECTORY
layout_layer_bytes() {
  local manifest
  manifest=$(jq -r '.manifests[0].digest | sub(":"; "/")' "$1/index.json")
  jq '[.layers[].size] | add' "$1/blobs/$manifest"
}
