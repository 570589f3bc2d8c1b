# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# What a scenario runs against: `nacre serve` and containerd, each with root, state and socket of its
# own in the scenario's directory `here`. Process ids are in files, because a scenario is a subshell.
# Sourced.

nacre() { "$NACRE_BIN" "$@" >&2; }

# Whether a process has ended; one that nobody waited for has too.
ended() {
  local state
  state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
  [ -z "$state" ] || [ "${state%% *}" = Z ]
}

# wait_until SECONDS COMMAND...: tries until it succeeds.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      echo "in vain waited for: $*" >&2
      return 1
    fi
    sleep 0.1
  done
}

# stop NAME [SIGNAL]: ends a service of this scenario.
stop() {
  local pid
  pid=$(cat "$here/$1.pid")
  kill "-${2-TERM}" "$pid" 2>/dev/null || true
  wait_until 20 ended "$pid"
}

# ---- nacre ----

# write_policy KEY: by the policy, what is below `signed/` is signed by KEY.
write_policy() {
  jq -n --arg registry "$registry" --arg key "$work/keys/$1.pub" '{
    default: [{ type: "reject" }],
    transports: { docker: {
      ($registry + "/signed"): [{
        type: "sigstoreSigned", keyPath: $key, signedIdentity: { type: "matchRepository" } }],
      ($registry + "/open"): [{ type: "insecureAcceptAnything" }]
    } }
  }' >"$here/policy.json.new"
  mv "$here/policy.json.new" "$here/policy.json"
}

# `complete`, `confirm`, `confirm_after`, `ordinary` and `layer_key` may be set around this.
configure_nacre() {
  [ -e "$here/policy.json" ] || write_policy signer
  cat >"$here/nacre.toml" <<TOML
root = "$here/nacre"
socket = "$here/nacre.sock"
[snapshotter]
ordinary = "${ordinary-lazy}"
[fetch]
complete = ${complete-true}
[trust]
policy = "$here/policy.json"
confirm = "${confirm-trusted}"
confirm_after_seconds = ${confirm_after-3600}
[keys]
decryption_keys = ["${layer_key-$work/keys/layer.pem}"]
[log]
format = "json"
TOML
}

# Starts nacre as configured and waits until it listens.
serve() {
  local before
  before=$(grep -c '^serving on ' "$here/nacre.out" 2>/dev/null) || true
  "$NACRE_BIN" serve --config "$here/nacre.toml" >>"$here/nacre.out" 2>>"$here/nacre.log" \
    </dev/null &
  echo $! >"$here/nacre.pid"
  wait_until 60 serving "${before:-0}"
}

serving() {
  ended "$(cat "$here/nacre.pid")" && die "nacre serve ended"
  [ "$(grep -c '^serving on ' "$here/nacre.out")" -gt "$1" ]
}

# Starts nacre again and waits until containerd, which tries in its own time, has found it.
serve_again() {
  serve
  wait_until 30 answers_containerd
}

answers_containerd() {
  ctr snapshots --snapshotter "$snapshotter" prepare probe >/dev/null &&
    ctr snapshots --snapshotter "$snapshotter" rm probe
}

# ---- containerd ----

# Programs of the version at hand.
containerd_path() {
  case $containerd in
    2) printf '%s:%s' "$containerd2" "$PATH" ;;
    *) printf '%s' "$PATH" ;;
  esac
}

containerd_version() {
  PATH=$(containerd_path) containerd --version | awk '{ sub(/^v/, "", $3); sub(/\+unknown$/, "", $3); print $3 }'
}

configure_containerd() {
  cat <<TOML
version = $([ "$containerd" = 2 ] && echo 3 || echo 2)
root = "$here/containerd"
state = "$here/state"
[grpc]
  address = "$here/c.sock"
[ttrpc]
  address = "$here/t.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$here/opt"
[proxy_plugins.$snapshotter]
  type = "snapshot"
  address = "$here/nacre.sock"
TOML
  case $containerd in
    2) configure_containerd_2 ;;
    *) configure_containerd_1 ;;
  esac
}

configure_containerd_1() {
  cat <<TOML
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$registry/open/pause:1"
  # Neither is to be had in the places where this runs.
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "$here/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
    disable_snapshot_annotations = false
TOML
}

configure_containerd_2() {
  cat <<TOML
  # Without this a snapshotter does not learn which image a layer is of.
  [proxy_plugins.$snapshotter.exports]
    enable_remote_snapshot_annotations = "true"
[plugins."io.containerd.transfer.v1.local"]
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = "overlayfs"
  [[plugins."io.containerd.transfer.v1.local".unpack_config]]
    platform = "linux"
    snapshotter = "$snapshotter"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "$snapshotter"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "$registry/open/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "$here/cni"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
TOML
}

start_containerd() {
  local lines=0
  mkdir -p "$here/cni"
  [ -e "$here/containerd.toml" ] || configure_containerd >"$here/containerd.toml"
  [ ! -e "$here/containerd.log" ] || lines=$(wc -l <"$here/containerd.log")
  PATH=$(containerd_path) containerd --config "$here/containerd.toml" \
    >>"$here/containerd.log" 2>&1 </dev/null &
  echo $! >"$here/containerd.pid"
  wait_until 60 booted "$lines"
}

booted() {
  ended "$(cat "$here/containerd.pid")" && die "containerd ended"
  tail -n "+$(($1 + 1))" "$here/containerd.log" | grep -q 'containerd successfully booted'
}

# Everything a scenario needs; see configure_nacre for what may be set.
start() {
  snapshotter=${snapshotter-nacre}
  configure_nacre
  serve
  start_containerd
}

# ---- the end ----

# Ends what a scenario left running, whatever it was: nothing of it is mounted afterwards.
tear_down() {
  local name pid
  for name in containerd nacre; do
    if [ -e "$here/$name.pid" ]; then
      stop "$name" || stop "$name" KILL || true
    fi
  done
  # Shims, and what they run: containers know nothing of their containerd.
  for pid in $(shims); do
    kill_tree "$pid"
  done
  # Mounts outlive the daemon, and so does the process that keeps them.
  "$NACRE_BIN" release --force --config "$here/nacre.toml" >/dev/null || true
  mounts_below "$here" | sort -r | while read -r name; do
    umount --lazy "$name" || true
  done
}

# A look at the command line of any process would hang with one that waits for a dead mount.
shims() {
  local directory name
  for directory in /proc/[0-9]*; do
    { read -r name <"$directory/comm"; } 2>/dev/null || continue
    if [[ $name == containerd-shim* ]] &&
      { tr '\0' ' ' <"$directory/cmdline"; } 2>/dev/null | grep -q -- "-address $here/c.sock "; then
      echo "${directory#/proc/}"
    fi
  done
}

kill_tree() {
  local child children=()
  # Stopped first, so that it starts no more.
  kill -STOP "$1" 2>/dev/null || return 0
  read -ra children < <(cat "/proc/$1/task/"*/children 2>/dev/null) || true
  for child in "${children[@]}"; do
    kill_tree "$child"
  done
  kill -KILL "$1" 2>/dev/null || true
}

# mounts_below DIRECTORY: mount points of this mount namespace.
mounts_below() {
  awk -v below="$1/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo
}
