# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# containerd's clients as scenarios say them, and what scenarios claim. Sourced.

# ---- claims ----

# claim WHAT COMMAND...: fails the scenario unless the command succeeds.
claim() {
  local what=$1
  shift
  "$@" || fail "not so: $what"
}

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

skip() {
  echo "$*" >"$here/skipped"
  exit 77
}

# same WHAT GOT WANTED
same() {
  [ "$2" = "$3" ] || fail "$1: got $(printf '%q' "$2"), wanted $(printf '%q' "$3")"
}

# has TEXT PART
has() {
  [[ $1 == *"$2"* ]] || fail "$(printf '%q' "$2") is not in: $1"
}

# refused COMMAND...: must fail; prints what it said.
refused() {
  local said
  if said=$("$@" 2>&1); then
    fail "was not refused: $*: $said"
  fi
  printf '%s\n' "$said"
}

# at_least WHAT GOT WANTED
at_least() {
  [ "$2" -ge "$3" ] || fail "$1: got $2, wanted at least $3"
}

at_most() {
  [ "$2" -le "$3" ] || fail "$1: got $2, wanted at most $3"
}

# ---- ctr ----

# In a namespace of its own; container names are known to runc machine-wide.
ctr() {
  echo "+ ctr $*" >&2
  PATH=$(containerd_path) command ctr --address "$here/c.sock" --namespace "${namespace-e2e}" "$@" \
    </dev/null
}

# Lazily, by the client that tells the snapshotter which image a layer is of.
pull() {
  case $containerd in
    # What it prints is a moving picture.
    2) ctr images pull --plain-http --snapshotter "$snapshotter" "$registry/$1" >/dev/null ;;
    *)
      echo "+ ctr-remote images rpull $1" >&2
      ctr-remote --address "$here/c.sock" --namespace "${namespace-e2e}" images rpull --plain-http \
        --snapshotter "$snapshotter" "$registry/$1" </dev/null
      ;;
  esac
}

# run IMAGE NAME [CTR OPTION...] -- COMMAND...
run() {
  local image=$registry/$1 name=$unique-$2 options=()
  shift 2
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
  ctr run --rm --net-host --snapshotter "$snapshotter" "${options[@]}" "$image" "$name" "$@" ||
    echo "exit code of container $name: $?"
}

# What a container says when all files of the image are what they were.
# shellcheck disable=SC2016 # the container's shell expands it
everything='wrong=$(sha256sum -c /etc/digests 2>&1 | grep -v ": OK$"); if [ -n "$wrong" ]; then
  echo "$wrong"; exit 1; fi; cat /app/name /etc/greeting; if [ -e /etc/gone ]; then echo not gone; fi'

# runs IMAGE NAME APPLICATION [CTR OPTION...]: a container reads everything and finds it right.
runs() {
  local image=$1 name=$2 application=$3
  shift 3
  same "container $name of $image" "$(run "$image" "$name" "$@" -- /bin/sh -c "$everything")" \
    "$(right "$application")"
}

right() { printf 'application %s\nfrom %s\n' "$1" "$1"; }

snapshots() { ctr snapshots --snapshotter "$snapshotter" ls; }

# Snapshots of the namespace, without the heading.
snapshot_count() { snapshots | tail -n +2 | wc -l; }

# remove IMAGE: from containerd, with all that only it had.
remove() { ctr images rm --sync "$registry/$1" >/dev/null; }

# ---- crictl ----

cri() {
  echo "+ crictl $*" >&2
  [ -e "$here/crictl.yaml" ] || cat >"$here/crictl.yaml" <<YAML
runtime-endpoint: unix://$here/c.sock
image-endpoint: unix://$here/c.sock
timeout: 60
YAML
  crictl --config "$here/crictl.yaml" "$@" </dev/null
}

cri_pull() { cri pull "$registry/$1"; }

# pod NAME: a pod on the host's network; prints its id.
pod() {
  jq -n --arg name "$1" --arg uid "$unique-$1" --arg logs "$here/pods/$1" '{
    metadata: { name: $name, namespace: "e2e", uid: $uid, attempt: 1 },
    log_directory: $logs,
    linux: { security_context: { namespace_options: { network: 2 } } }
  }' >"$here/pod-$1.json"
  mkdir -p "$here/pods/$1"
  cri runp "$here/pod-$1.json"
}

# container POD NAME IMAGE SECURITY SCRIPT: starts it in pod NAME (id POD); prints its id.
container() {
  local file=$here/container-$2.json id
  jq -n --arg name "$2" --arg image "$registry/$3" --argjson security "$4" --arg script "$5" '{
    metadata: { name: $name, attempt: 1 },
    image: { image: $image },
    command: ["/bin/sh", "-c", $script],
    log_path: ($name + ".log"),
    linux: { security_context: $security }
  }' >"$file"
  id=$(cri create "$1" "$file" "$here/pod-$2.json")
  cri start "$id" >/dev/null
  echo "$id"
}

state() { cri inspect "$1" | jq -r .status.state; }

is_state() { [ "$(state "$1" 2>/dev/null)" = "$2" ]; }

# said ID: what a container said, when it has ended, and well.
said() {
  wait_until 120 is_state "$1" CONTAINER_EXITED
  same "exit code of $1" "$(cri inspect "$1" | jq -r .status.exitCode)" 0
  cri logs "$1" 2>&1 | grep -v '^+ '
}

# pod_says NAME IMAGE SCRIPT [SECURITY]: what a container in a pod of its own says.
pod_says() {
  local pod container
  pod=$(pod "$1")
  container=$(container "$pod" "$1" "$2" "${4-{\}}" "$3")
  said "$container"
  cri rmp -f "$pod" >/dev/null
}

# pod_runs NAME IMAGE APPLICATION: a pod reads everything and finds it right.
pod_runs() {
  same "pod $1 of $2" "$(pod_says "$1" "$2" "$everything")" "$(right "$3")"
}

# ---- nerdctl ----

nerd() {
  echo "+ nerdctl $*" >&2
  PATH=$(containerd_path) command nerdctl --address "$here/c.sock" --namespace e2e \
    --snapshotter "$snapshotter" --data-root "$here/nerdctl" --cni-netconfpath "$here/cni" \
    --cgroup-manager cgroupfs --insecure-registry "$@" </dev/null
}

# ---- looks from outside ----

# Lines of nacre's log that have TEXT.
logged() { grep -c -- "$1" "$here/nacre.log" || true; }

# Lower directories, by whichever front end; but that of the pods' sandboxes.
image_mounts() {
  local pause=none
  [ ! -e "$work/pause.digest" ] || pause=$(cat "$work/pause.digest")
  mounts_below "$here/nacre/images" | grep -v "$pause" || true
}

# layer_digest REPOSITORY:TAG NUMBER
layer_digest() {
  skopeo inspect --raw --tls-verify=false "docker://$registry/$1" | jq -r ".layers[$2].digest"
}

# mark: a place in the registry's log. What counts from there: fetched MARK [DIGEST]: bytes of blobs (or
# of one) that the registry sent; downloaded MARK DIGEST: those that it sent to others than nacre.
mark() { wc -l <"$work/registry/log"; }

fetched() { sent "$1" "${2-}" ''; }

downloaded() { sent "$1" "$2" nacre/; }

sent() {
  tail -n "+$(($1 + 1))" "$work/registry/log" | awk -v digest="$2" -v but="$3" -F '"' '
    $2 ~ /^GET .*\/blobs\// && index($2, digest) && !(but != "" && index($6, but) == 1) {
      split($3, answer, " ")
      bytes += answer[2]
    }
    END { print bytes + 0 }'
}

# layer_size REPOSITORY:TAG NUMBER
layer_size() {
  skopeo inspect --raw --tls-verify=false "docker://$registry/$1" | jq -r ".layers[$2].size"
}
