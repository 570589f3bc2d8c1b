# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# Scenarios: sharing, removal, crashes and restarts. Sourced.

scenario_twenty_containers() {
  local number pids=() pid
  start
  pull signed/encrypted:1
  mkdir "$here/said"
  for number in $(seq 20); do
    run signed/encrypted:1 "$number" -- /bin/sh -c "$everything; exec sleep 600" \
      >"$here/said/$number" 2>"$here/said/$number.errors" &
    pids+=($!)
  done
  for number in $(seq 20); do
    wait_until 120 has_said "$number"
    same "container $number" "$(cat "$here/said/$number")" "$(right one)"
  done
  same "running containers" "$(ctr tasks ls -q | wc -l)" 20
  same "mounts" "$(image_mounts | wc -l)" 1
  for number in $(seq 20); do
    ctr tasks kill -s KILL "$unique-$number"
  done
  for pid in "${pids[@]}"; do
    # Killed, so its code is not zero.
    wait "$pid" || true
  done
  same "running containers" "$(ctr tasks ls -q | wc -l)" 0
}

has_said() { [ "$(wc -l <"$here/said/$1")" -ge 2 ]; }

# The image goes, its container reads on what it has not read before.
scenario_removed_while_running() {
  local client number
  start
  pull signed/encrypted:1
  mkfifo "$here/go"
  run signed/encrypted:1 reader --mount "type=bind,src=$here,dst=/tmp,options=rbind:ro" -- \
    /bin/sh -c "echo started; read x </tmp/go; $everything" >"$here/said" &
  client=$!
  wait_until 60 grep -q started "$here/said"
  remove signed/encrypted:1
  same "images" "$(ctr images ls -q)" ""
  for number in 1 2 3; do
    echo 3 >/proc/sys/vm/drop_caches
    ctr content prune references >/dev/null || true
    [ "$number" -gt 0 ]
  done
  echo go >"$here/go"
  wait "$client"
  same "what it read" "$(cat "$here/said")" "started"$'\n'"$(right one)"
}

# Nothing is left of removed images: containerd's snapshots, directories, what is kept, mounts.
scenario_nothing_left() {
  local image
  start
  for image in signed/encrypted:1 signed/mixed:1 open/ordinary:1; do
    pull "$image"
    run "$image" "${image//[:\/]/-}" -- /bin/sh -c 'echo x >/etc/new'
  done
  at_least "snapshots" "$(snapshot_count)" 5
  for image in signed/encrypted:1 signed/mixed:1 open/ordinary:1; do
    remove "$image"
  done
  same "snapshots" "$(snapshot_count)" 0
  wait_until 30 empty "$here/nacre/snapshotter/snapshots"
  wait_until 30 empty "$here/nacre/snapshotter/removed"
  # Mounts and documents are spared for a while, as for a pull that is under way.
  stop nacre
  serve_again
  same "mounts" "$(image_mounts | wc -l)" 0
  same "directories of mounts" "$(ls "$here/nacre/images")" ""
  same "kept files" "$(find "$here/nacre/kept" -type f)" ""
}

empty() { [ -z "$(ls -A "$1")" ]; }

# The second image has the first one's base layer: not a byte of it is fetched again.
scenario_shared_base() {
  local base from
  start
  base=$(layer_digest signed/plain:1 0)
  same "the base" "$(layer_digest signed/second:1 0)" "$base"
  from=$(mark)
  pull signed/plain:1
  runs signed/plain:1 first one
  at_least "bytes of the base" "$(fetched "$from" "$base")" 1000000
  from=$(mark)
  pull signed/second:1
  runs signed/second:1 second two
  same "bytes of the base, the second time" "$(fetched "$from" "$base")" 0
  at_least "bytes of the second image" "$(fetched "$from")" 1000
  # The other image goes; what the second stands on is its own.
  remove signed/plain:1
  stop nacre KILL
  serve_again
  runs signed/second:1 third two
}

# A pod reads all files in a loop and compares digests, while the daemon is killed ten times.
scenario_killed_ten_times() {
  local pod container round before
  start
  cri_pull signed/encrypted:1
  pod=$(pod reader)
  # shellcheck disable=SC2016 # the container's shell expands it
  container=$(container "$pod" reader signed/encrypted:1 '{}' '
    while true; do
      if sha256sum -c -s /etc/digests; then
        echo round
      else
        echo "wrong: $(sha256sum -c /etc/digests 2>&1 | grep -v OK)"
      fi
    done')
  wait_until 60 rounds_beyond "$container" 0
  for round in $(seq 10); do
    stop nacre KILL
    # What was read is forgotten, so that it is asked for again.
    echo 3 >/proc/sys/vm/drop_caches
    serve_again
    before=$(rounds "$container")
    # The one that was under way, and a whole one; or one that went wrong.
    wait_until 60 reads_on "$container" $((before + 1)) ||
      fail "kill $round: the pod reads no more: $(state "$container")"
    same "wrong reads after kill $round" "$(wrong_rounds "$container" | head -n 3)" ""
  done
  same "the pod" "$(state "$container")" CONTAINER_RUNNING
  # A new pod of the same image, beside the one that lived through it.
  pod_runs later signed/encrypted:1 one
  cri rmp -f "$pod" >/dev/null
}

rounds() { cri logs "$1" 2>/dev/null | grep -c '^round$' || true; }

wrong_rounds() { cri logs "$1" 2>&1 | grep -v -e '^round$' -e '^+ ' || true; }

reads_on() { rounds_beyond "$1" "$2" || [ -n "$(wrong_rounds "$1")" ]; }

rounds_beyond() { [ "$(rounds "$1")" -gt "$2" ]; }

# The daemon crashed and was started again: new containers run, whatever became of the old ones.
scenario_new_containers_after_crash() {
  start
  pull signed/encrypted:1
  runs signed/encrypted:1 before one
  stop nacre KILL
  serve_again
  runs signed/encrypted:1 after one
  same "mounts" "$(image_mounts | wc -l)" 1
  cri_pull signed/encrypted:1
  pod_runs pod signed/encrypted:1 one
}

# What is here serves new containers without the registry, and a restarted daemon too.
scenario_registry_down() {
  start
  cri_pull signed/encrypted:1
  pod_runs first signed/encrypted:1 one
  stop_registry
  pod_runs second signed/encrypted:1 one
  stop nacre
  serve_again
  pod_runs third signed/encrypted:1 one
  # What is not here cannot be had, and is said to be the registry's fault.
  has "$(refused cri_pull signed/plain:1)" "$registry"
  ensure_registry
  cri_pull signed/plain:1
  pod_runs fourth signed/plain:1 one
}

# Containers outlive containerd; the new one finds them and nacre's snapshots.
scenario_containerd_restarts() {
  local pod container before
  start
  cri_pull signed/encrypted:1
  before=$(namespace=k8s.io snapshot_count)
  pod=$(pod reader)
  container=$(container "$pod" reader signed/encrypted:1 '{}' '
    while sha256sum -c -s /etc/digests; do echo round; done')
  wait_until 60 rounds_beyond "$container" 0
  stop containerd
  start_containerd
  wait_until 30 is_state "$container" CONTAINER_RUNNING
  wait_until 60 rounds_beyond "$container" "$(rounds "$container")"
  same "in it" "$(cri exec "$container" cat /app/name)" "application one"
  pod_runs second signed/encrypted:1 one
  cri rmp -f "$pod" >/dev/null
  # The sandbox's image came with the first pod.
  at_most "snapshots" "$(namespace=k8s.io snapshot_count)" $((before + 1))
}
