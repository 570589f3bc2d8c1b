# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# Scenarios: kinds of images, and what is refused. Sourced.

# pulls_lazily IMAGE APPLICATION: by ctr and as a pod. containerd downloads nothing of its two layers,
# which come from one mount.
pulls_lazily() {
  local image=$1 application=$2 number from
  from=$(mark)
  pull "$image"
  runs "$image" ctr "$application"
  same "lazy layers" "$(logged 'layer is mounted lazily')" 2
  cri_pull "$image"
  pod_runs pod "$image" "$application"
  same "mounts" "$(image_mounts | wc -l)" 1
  for number in 0 1; do
    same "downloaded of layer $number" "$(downloaded "$from" "$(layer_digest "$image" "$number")")" 0
  done
}

# is_downloaded MARK IMAGE LAYER
is_downloaded() {
  at_least "downloaded of layer $3" "$(downloaded "$1" "$(layer_digest "$2" "$3")")" \
    "$(layer_size "$2" "$3")"
}

scenario_encrypted_signed() {
  start
  pulls_lazily signed/encrypted:1 one
  at_least "admissions as encrypted+signed" "$(logged encrypted+signed)" 1
}

scenario_plain_signed() {
  start
  pulls_lazily signed/plain:1 one
  at_least "admissions as plain+signed" "$(logged plain+signed)" 1
}

# Not signed: lazy once the layers have been confirmed, which `always` does first.
scenario_unsigned_lazy() {
  confirm=always start
  pulls_lazily open/lazy:1 one
  at_least "confirmations" "$(logged '"message":"confirmed"')" 2
}

# An image that nobody made lazy, nor signed: read whole by nacre, once, and by nobody else.
scenario_ordinary() {
  start
  pulls_lazily open/ordinary:1 one
}

# Of an unpacked image nothing is mounted by nacre, and all of it is downloaded.
scenario_ordinary_unpacked() {
  local from
  from=$(mark)
  ordinary=unpack start
  pull open/ordinary:1
  runs open/ordinary:1 ctr one
  cri_pull open/ordinary:1
  pod_runs pod open/ordinary:1 one
  is_downloaded "$from" open/ordinary:1 0
  is_downloaded "$from" open/ordinary:1 1
  same "mounts" "$(image_mounts | wc -l)" 0
}

scenario_mixed() {
  start
  pulls_lazily signed/mixed:1 two
}

# The signature is over the index; the client names the platform's manifest.
scenario_multi_arch() {
  local index own from
  start
  index=$(sha256sum "$work/index/index" | cut -d ' ' -f 1)
  own=$(sha256sum "$work/index/own" | cut -d ' ' -f 1)
  # By its own digest it has no signature; only its index has.
  has "$(refused pull "signed/multi@sha256:$own")" signature
  from=$(mark)
  pull signed/multi:1
  runs signed/multi:1 ctr one
  cri_pull signed/multi:1
  pod_runs pod signed/multi:1 one
  same "mounts" "$(image_mounts | wc -l)" 1
  pull "signed/multi@sha256:$index"
  runs "signed/multi@sha256:$index" by-index one
  same "downloaded" "$(downloaded "$from" "$(layer_digest signed/multi:own 0)")" 0
}

scenario_zstd_chunked() {
  start
  pulls_lazily signed/zstd:1 one
}

scenario_zstd_chunked_encrypted() {
  start
  pulls_lazily signed/zstd-encrypted:1 one
}

# A client that says nothing of the image: containerd unpacks.
scenario_without_labels() {
  local client=()
  if [ "$containerd" = 2 ]; then
    # By containerd itself it would be lazy: its configuration says so.
    client=(--local)
  fi
  start
  ctr images pull "${client[@]}" --plain-http --snapshotter "$snapshotter" "$registry/open/lazy:1"
  runs open/lazy:1 ctr one
  same "mounts" "$(image_mounts | wc -l)" 0
}

# Layers that are in use are checked in the background.
scenario_confirmed() {
  confirm_after=0 start
  pull signed/encrypted:1
  runs signed/encrypted:1 ctr one
  wait_until 60 confirmed_layers 2
}

confirmed_layers() { [ "$(logged '"message":"confirmed"')" -ge "$1" ]; }

# ---- refused ----

# is_refused IMAGE WORD...: by every client, in our words, and nothing is left of it.
is_refused() {
  local image=$1 from word said by
  shift
  from=$(mark)
  for by in pull cri_pull; do
    said=$(refused "$by" "$image")
    for word; do
      has "$said" "$word"
    done
  done
  same "snapshots" "$(snapshot_count)" 0
  same "snapshots of pods" "$(namespace=k8s.io snapshot_count)" 0
  same "directories" "$(ls "$here/nacre/snapshotter/snapshots")" ""
  same "bytes of layers" "$(fetched "$from" "$(layer_digest "$image" 0)")" 0
}

# The policy wants the signatures of a key that signed nothing; then it is mended.
scenario_policy_refuses() {
  write_policy other-signer
  start
  is_refused signed/plain:1 signature "$registry/signed"
  write_policy signer
  pulls_lazily signed/plain:1 one
}

# The key that is configured is another one; then its file is replaced.
scenario_key_missing() {
  cp "$work/keys/other-layer.pem" "$here/key.pem"
  layer_key=$here/key.pem start
  is_refused signed/encrypted:1 key
  cp "$work/keys/layer.pem" "$here/key.pem"
  pulls_lazily signed/encrypted:1 one
}
