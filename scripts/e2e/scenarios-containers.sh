# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# Scenarios: what is done with containers of a lazy image. Sourced.

scenario_exec() {
  local pod container
  start
  cri_pull signed/encrypted:1
  pod=$(pod long)
  container=$(container "$pod" long signed/encrypted:1 '{}' 'echo mine >/tmp/mine; exec sleep 600')
  wait_until 30 cri exec "$container" test -e /tmp/mine
  same "exec" "$(cri exec "$container" /bin/sh -c "cat /tmp/mine; $everything")" \
    mine$'\n'"$(right one)"
  same "exec as a user" "$(cri exec "$container" /bin/sh -c 'stat -c %U /usr/share/data/7')" user
  cri rmp -f "$pod" >/dev/null

  # By ctr, beside.
  pull signed/encrypted:1
  ctr run --detach --net-host --snapshotter "$snapshotter" "$registry/signed/encrypted:1" \
    "$unique-ctr" /bin/sleep 600
  same "ctr exec" "$(ctr tasks exec --exec-id one "$unique-ctr" cat /app/name)" "application one"
  ctr tasks kill -s KILL "$unique-ctr"
  wait_until 20 no_tasks
  ctr containers rm "$unique-ctr"
}

no_tasks() { ! ctr tasks ls | grep -q RUNNING; }

scenario_read_only_rootfs() {
  start
  cri_pull signed/encrypted:1
  same "a pod that may not write" "$(pod_says frozen signed/encrypted:1 \
    "$everything; echo x >/etc/new || echo refused; test -e /etc/new || echo nothing" \
    '{ "readonly_rootfs": true }' | grep -v 'Read-only file system')" \
    "$(right one)"$'\n'refused$'\n'nothing
  pull signed/encrypted:1
  same "a container that may not write" "$(run signed/encrypted:1 frozen --read-only -- \
    /bin/sh -c "$everything; echo x >/etc/new 2>/dev/null || echo refused")" \
    "$(right one)"$'\n'refused
}

# A user other than root, by name: containerd reads /etc/passwd in the lazy tree.
scenario_named_user() {
  start
  cri_pull signed/encrypted:1
  same "user" "$(pod_says user signed/encrypted:1 'id -un; cat /usr/share/data/7 >/dev/null && echo read' \
    '{ "run_as_username": "user" }')" user$'\n'read
}

# containerd copies the files that change owner; the snapshotter does not remap. Without --net-host,
# because root of the namespace may not mount the /sys of another's network.
scenario_user_namespace() {
  unshare --user true 2>/dev/null || skip "no user namespaces here"
  start
  pull signed/encrypted:1
  same "owners inside" "$(ctr run --rm --snapshotter "$snapshotter" --uidmap 0:100000:65536 \
    --gidmap 0:100000:65536 "$registry/signed/encrypted:1" "$unique-mapped" /bin/sh -c \
    "$everything; id -u; stat -c %u:%g /etc/greeting /usr/share/data/7; tr -s ' ' </proc/self/uid_map")" \
    "$(right one)"$'\n0\n0:0\n1000:1000\n 0 100000 65536'
}

# What an active snapshot and a lazy layer take, as containerd asks for it.
scenario_usage() {
  local layer size chain
  # What is here before it is read would be all of it otherwise.
  complete=false start
  pull signed/plain:1
  size=$(skopeo inspect --raw --tls-verify=false "docker://$registry/signed/plain:1" |
    jq '.layers[0].size')
  chain=$(snapshots | awk '$2 !~ /sha256/ && /Committed/ { print $1 }')
  layer=$(usage "$chain")
  at_most "the base before it is read" "$layer" $((size / 4))
  ctr run --detach --net-host --snapshotter "$snapshotter" "$registry/signed/plain:1" \
    "$unique-writer" /bin/sh -c "$everything; head -c 5000000 /dev/zero >/tmp/new; sync; exec sleep 600"
  wait_until 60 usage_is_at_least "$unique-writer" 5000000
  at_most "the container's own" "$(usage "$unique-writer")" 6000000
  at_least "the base after it was read" "$(usage "$chain")" $((layer + 1000000))
  at_most "the base after it was read" "$(usage "$chain")" "$size"
  if [ "$containerd" = 2 ]; then
    ctr images usage --snapshotter "$snapshotter" "$registry/signed/plain:1"
  fi
  ctr tasks kill -s KILL "$unique-writer"
  wait_until 20 no_tasks
  ctr containers rm "$unique-writer"
}

# usage KEY: bytes. `-b` is ctr's word for not rounding.
usage() { ctr snapshots --snapshotter "$snapshotter" usage -b "$1" | awk 'NR == 2 { print $2 }'; }

usage_is_at_least() { [ "$(usage "$1")" -ge "$2" ]; }

# The changes of a container, as `commit` and `build` take them: those and nothing else.
scenario_diff() {
  start
  pull signed/encrypted:1
  ctr run --detach --net-host --snapshotter "$snapshotter" "$registry/signed/encrypted:1" \
    "$unique-changed" /bin/sh -c '
    echo new >/etc/new; echo more >>/etc/greeting; rm /usr/share/data/7; mkdir /srv; sync
    touch /tmp/done; exec sleep 600'
  wait_until 30 ctr tasks exec --exec-id "done$RANDOM" "$unique-changed" test -e /tmp/done
  ctr snapshots --snapshotter "$snapshotter" diff "$unique-changed" >"$here/diff"
  # The first two are mounted there by ctr.
  same "what changed" "$(tar -tzf "$here/diff" | grep -v -e ^etc/hosts$ -e ^etc/resolv.conf$ |
    LC_ALL=C sort | tr '\n' ' ')" "etc/ etc/greeting etc/new srv/ tmp/ tmp/done usr/ usr/share/ usr/share/data/ usr/share/data/.wh.7 "
  same "a changed file" "$(tar -xzOf "$here/diff" etc/greeting)" $'from one\nmore'
  ctr tasks kill -s KILL "$unique-changed"
  wait_until 20 no_tasks
  ctr containers rm "$unique-changed"
}

# ---- nerdctl ----

# nerdctl names images only to snapshotters whose names it knows, stargz among them.
needs_nerdctl() {
  have nerdctl || skip "nerdctl is not installed"
  # shellcheck disable=SC2034
  snapshotter=stargz
}

scenario_nerdctl_run() {
  needs_nerdctl
  start
  same "what it says" "$(nerd run --rm --net host "$registry/signed/encrypted:1" \
    /bin/sh -c "$everything")" "$(right one)"
  same "lazy layers" "$(logged 'layer is mounted lazily')" 2
  same "mounts" "$(image_mounts | wc -l)" 1
  has "$(refused nerd run --rm --net host "$registry/other/image:1" true)" "$registry"
}

# A container's changes become a layer on top of a lazy image.
scenario_nerdctl_commit() {
  needs_nerdctl
  start
  nerd run --net host --name "$unique-changed" "$registry/signed/plain:1" \
    /bin/sh -c 'echo committed >/etc/greeting; rm /usr/share/data/7'
  nerd commit "$unique-changed" "$registry/open/committed:1"
  nerd rm "$unique-changed"
  same "the committed image" "$(nerd run --rm --net host --pull never \
    "$registry/open/committed:1" /bin/sh -c \
    'cat /app/name /etc/greeting; test -e /usr/share/data/7 || echo gone; wc -c </usr/share/noise')" \
    $'application one\ncommitted\ngone\n8000000'
}

scenario_nerdctl_build() {
  needs_nerdctl
  have buildctl || skip "BuildKit is not installed"
  start
  mkdir "$here/context"
  printf 'FROM %s\nRUN echo built >/etc/greeting\n' "$registry/signed/plain:1" \
    >"$here/context/Dockerfile"
  nerd build -t "$registry/open/built:1" "$here/context"
  same "the built image" "$(nerd run --rm --net host --pull never "$registry/open/built:1" \
    cat /etc/greeting)" built
}
