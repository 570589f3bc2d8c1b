# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-images sets
# Scenarios of scripts/e2e-images. Sourced.

# ---- what nacre encrypts, others decrypt ----

scenario_skopeo_decrypts_jwe() {
  local key
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" \
    --recipient "jwe:$work/keys/one.pub" --recipient "jwe:$work/keys/ec.pub"
  for key in one ec; do
    skopeo_copy --decryption-key "$work/keys/$key.pem" "oci:$here/e:1" "oci:$here/$key:1"
    same "$here/$key"
  done
  refused skopeo_copy --decryption-key "$work/keys/two.pem" "oci:$here/e:1" "oci:$here/no:1"
}

scenario_skopeo_decrypts_pkcs7() {
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" \
    --recipient "pkcs7:$work/keys/one.crt" --recipient "pkcs7:$work/keys/two.crt"
  skopeo_copy --decryption-key "$work/keys/two.pem" --decryption-key "$work/keys/two.crt" \
    "oci:$here/e:1" "oci:$here/d:1"
  same "$here/d"
}

# Debian's skopeo is too old for key providers.
scenario_skopeo_decrypts_provider() {
  local skopeo=$skopeo2/skopeo
  [ -x "$skopeo" ] || skip "skopeo 2 is not installed; scripts/install-peers --only skopeo2"
  need python3
  export OCICRYPT_KEYPROVIDER_CONFIG=$work/keys/providers.json
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" --recipient provider:shift:word
  "$skopeo" --insecure-policy copy --quiet --decryption-key provider:shift:word \
    "oci:$here/e:1" "oci:$here/d:1"
  same "$here/d"
  # And the other way round.
  "$skopeo" --insecure-policy copy --quiet --encryption-key provider:shift:word \
    "oci:$work/plain:1" "oci:$here/theirs:1"
  nacre image decrypt "oci:$here/theirs:1" "oci:$here/ours:1" --decryption-key provider:shift:word
  same "$here/ours"
}

scenario_go_unwraps_jwe() {
  local key
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" \
    --recipient "jwe:$work/keys/one.pub" --recipient "jwe:$work/keys/ec.pub"
  for key in one ec; do
    go_opens "$here/e" "$work/keys/$key.pem"
  done
}

scenario_go_unwraps_pkcs7() {
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" --recipient "pkcs7:$work/keys/one.crt"
  go_opens "$here/e" "$work/keys/one.pem" "$work/keys/one.crt"
}

scenario_go_unwraps_provider() {
  need python3
  export OCICRYPT_KEYPROVIDER_CONFIG=$work/keys/providers.json
  nacre image encrypt "oci:$work/plain:1" "oci:$here/e:1" --recipient provider:shift:word
  go_opens "$here/e" provider:shift:word
}

# ---- what others encrypt, nacre decrypts ----

scenario_nacre_decrypts_skopeo_jwe() {
  skopeo_copy --encryption-key "jwe:$work/keys/one.pub" "oci:$work/plain:1" \
    "docker://$registry/theirs:jwe"
  nacre image decrypt "$registry/theirs:jwe" "oci:$here/d:1" --decryption-key "$work/keys/one.pem"
  same "$here/d"
  fails 4 "none of the recipients'" nacre image decrypt "$registry/theirs:jwe" "oci:$here/no:1" \
    --decryption-key "$work/keys/two.pem"
  [ ! -e "$here/no" ]
}

scenario_nacre_decrypts_skopeo_pkcs7() {
  skopeo_copy --encryption-key "pkcs7:$work/keys/one.crt" "oci:$work/plain:1" "oci:$here/e:1"
  # The key alone is enough.
  nacre image decrypt "oci:$here/e:1" "oci:$here/d:1" --decryption-key "$work/keys/one.pem"
  same "$here/d"
}

# skopeo takes public keys out of GnuPG's directory. Debian's knows RSA alone of what GnuPG makes.
scenario_nacre_decrypts_skopeo_pgp() {
  local gpg fingerprint name
  need gpg
  export GNUPGHOME=$here/gnupg
  mkdir -m 700 "$GNUPGHOME"
  gpg=(gpg --batch --quiet --pinentry-mode loopback --passphrase secret)
  for name in one two; do
    "${gpg[@]}" --quick-generate-key "$name@example.org" rsa3072 sign never
    fingerprint=$("${gpg[@]}" --with-colons --list-keys "$name@example.org" |
      awk -F: '/^fpr/ { print $10; exit }')
    "${gpg[@]}" --quick-add-key "$fingerprint" rsa3072 encr never
    "${gpg[@]}" --armor --export-secret-keys "$fingerprint" >"$here/$name.asc"
  done
  skopeo_copy --encryption-key pgp:one@example.org "oci:$work/plain:1" "oci:$here/e:1"
  gpgconf --kill all
  nacre image decrypt "oci:$here/e:1" "oci:$here/d:1" --decryption-key "$here/one.asc:pass=secret"
  same "$here/d"
  fails 4 "none of the recipients'" nacre image decrypt "oci:$here/e:1" "oci:$here/no:1" \
    --decryption-key "$here/two.asc:pass=secret"
  fails 4 'no password was given' nacre image decrypt "oci:$here/e:1" "oci:$here/no:1" \
    --decryption-key "$here/one.asc"
}

scenario_nacre_unwraps_go() {
  local number digest
  go_program
  need python3
  export OCICRYPT_KEYPROVIDER_CONFIG=$work/keys/providers.json
  digest=$(manifest_of "$work/plain" | jq -r '.layers[0].digest | sub(":"; "/")')
  "$work/ocicrypt-interop" encrypt "jwe:$work/keys/ec.pub" "pkcs7:$work/keys/one.crt" \
    provider:shift:word <"$work/plain/blobs/$digest" >"$here/result.json"
  # The first layer in their form, the rest as it was.
  cp -r "$work/plain" "$here/e"
  jq -r .ciphertext "$here/result.json" | base64 -d >"$here/blob"
  number=$(sha256sum <"$here/blob" | cut -d ' ' -f 1)
  cp "$here/blob" "$here/e/blobs/sha256/$number"
  manifest_of "$work/plain" | jq -c --arg digest "sha256:$number" \
    --slurpfile result "$here/result.json" '
      .layers[0].digest = $digest | .layers[0].mediaType += "+encrypted"
      | .layers[0].annotations = $result[0].annotations' >"$here/manifest"
  number=$(sha256sum <"$here/manifest" | cut -d ' ' -f 1)
  cp "$here/manifest" "$here/e/blobs/sha256/$number"
  jq -c --arg digest "sha256:$number" --argjson size "$(stat -c %s "$here/manifest")" \
    '.manifests[0].digest = $digest | .manifests[0].size = $size' "$work/plain/index.json" \
    >"$here/e/index.json"
  for number in "$work/keys/ec.pem" "$work/keys/one.pem" provider:shift:word; do
    rm -rf "$here/d"
    nacre image decrypt "oci:$here/e:1" "oci:$here/d:1" --decryption-key "$number"
    same "$here/d"
  done
}

# ---- signatures ----

scenario_cosign_verifies_plain_key() {
  local image
  need cosign
  image=$(pushed "$work/estargz" signed/plain:1)
  nacre image sign --key "$work/keys/signer.key" "$registry/signed/plain:1"
  cosign_verifies "$work/keys/signer.pub" "$image"
  nacre verify --key "$work/keys/signer.pub" "$registry/signed/plain:1"
}

scenario_cosign_verifies_its_own_encrypted_key() {
  local image
  need cosign
  image=$(pushed "$work/estargz" signed/encrypted-key:1)
  cosign_alone generate-key-pair --output-key-prefix "$here/cosign"
  COSIGN_PASSWORD=secret nacre image sign --key "$here/cosign.key" "$registry/signed/encrypted-key:1"
  cosign_verifies "$here/cosign.pub" "$image"
  nacre verify --key "$here/cosign.pub" "$registry/signed/encrypted-key:1"
  refused cosign_verifies "$work/keys/signer.pub" "$image"
}

scenario_wrong_password() {
  need cosign
  pushed "$work/estargz" signed/nothing:1 >/dev/null
  cosign_alone generate-key-pair --output-key-prefix "$here/cosign"
  local sign=(nacre image sign --key "$here/cosign.key" "$registry/signed/nothing:1")
  fails 4 COSIGN_PASSWORD "${sign[@]}"
  COSIGN_PASSWORD=wrong fails 4 "does not fit" "${sign[@]}"
  fails 4 "" nacre verify --key "$here/cosign.pub" "$registry/signed/nothing:1"
  fails 3 "a private key" nacre verify --key "$here/cosign.key" "$registry/signed/nothing:1"
}

scenario_nacre_verifies_cosign() {
  local image
  need cosign
  image=$(pushed "$work/estargz" signed/theirs:1)
  cosign_alone generate-key-pair --output-key-prefix "$here/cosign"
  cosign_alone sign --key "$here/cosign.key" --use-signing-config=false --tlog-upload=false -y \
    --new-bundle-format=false "$image"
  nacre verify --key "$here/cosign.pub" "$registry/signed/theirs:1"
  write_policy "$here/cosign.pub"
  nacre verify --policy "$here/policy.json" "$registry/signed/theirs:1"
  fails 4 "" nacre verify --key "$work/keys/signer.pub" "$registry/signed/theirs:1"
}

# ---- mounts ----

# Converted by nacre, encrypted by skopeo, signed by cosign.
scenario_nacre_mounts_theirs() {
  need cosign
  local digest
  skopeo_copy --digestfile "$here/digest" --encryption-key "jwe:$work/keys/one.pub" \
    "oci:$work/zstd:1" "docker://$registry/theirs/lazy:1"
  digest=$(cat "$here/digest")
  cosign_alone generate-key-pair --output-key-prefix "$here/cosign"
  cosign_alone sign --key "$here/cosign.key" --use-signing-config=false --tlog-upload=false -y \
    --new-bundle-format=false "$registry/theirs/lazy@$digest"
  write_policy "$here/cosign.pub"
  same_mounted "$registry/theirs/lazy:1" --policy "$here/policy.json" \
    --decryption-key "$work/keys/one.pem"
}

# Nobody has signed it: the index that was wrapped with the key is what is believed.
scenario_nacre_mounts_its_own_unsigned() {
  local form
  for form in estargz zstd; do
    nacre --json image encrypt "oci:$work/$form:1" "$registry/own/$form:1" \
      --recipient "jwe:$work/keys/ec.pub" >"$here/made.json"
    [ "$(jq -r '[.layers[].how] | unique | join(",")' "$here/made.json")" = encrypted-lazy ]
    same_mounted "$registry/own/$form:1" --insecure-policy accept-anything \
      --decryption-key "$work/keys/ec.pem"
  done
}

# ---- converted images elsewhere ----

scenario_skopeo_reads_converted() {
  local form
  for form in estargz zstd; do
    pushed "$work/$form" "converted/$form:1" >/dev/null
    skopeo_copy "docker://$registry/converted/$form:1" "oci:$here/$form:1"
    cmp <(manifest_of "$work/$form") <(manifest_of "$here/$form")
  done
  # umoci unpacks no zstd.
  same "$here/estargz"
}

scenario_podman_reads_converted() {
  local form root run
  need podman "apt-get install podman"
  # podman wants a short name here.
  run=$(mktemp -d)
  # shellcheck disable=SC2064 # the name as it is now: it is a local one
  trap "rm -rf --one-file-system '$run'" EXIT
  local podman=(podman --root "$here/root" --runroot "$run" --storage-driver vfs)
  for form in estargz zstd; do
    # It names the image after the path, which has to be in lower case.
    (cd "$work" && "${podman[@]}" pull --quiet "oci:$form:1") >"$here/id"
    root=$("${podman[@]}" image mount "$(cat "$here/id")")
    facts "$root" | diff "$work/tree" -
    "${podman[@]}" image umount "$(cat "$here/id")"
  done
}

scenario_stargz_library_reads_converted() {
  local number digest toc
  have go || skip "go is not installed"
  (cd "$repo/tests/go/estargz-verify" && go build -o "$here/estargz-verify" .) ||
    skip "stargz's library cannot be built: $(tail -n 1 "$here/log")"
  for number in $(manifest_of "$work/estargz" | jq '.layers | keys[]'); do
    digest=$(manifest_of "$work/estargz" | jq -r ".layers[$number].digest | sub(\":\"; \"/\")")
    toc=$(manifest_of "$work/estargz" | jq -r \
      ".layers[$number].annotations[\"containerd.io/snapshot/stargz/toc.digest\"]")
    "$here/estargz-verify" verify gzip "$toc" "$work/estargz/blobs/$digest" >>"$here/files"
  done
  # Path, size, digest: what the tree has under this path.
  awk 'NF == 3 { print $3 "  ./" $1 }' "$here/files" | LC_ALL=C sort >"$here/theirs"
  grep -E '^[0-9a-f]{64}  ' "$work/tree" | LC_ALL=C sort >"$here/ours"
  [ "$(comm -12 "$here/ours" "$here/theirs" | wc -l)" -eq "$(wc -l <"$here/ours")" ]
}

# containerd with the stargz snapshotter mounts it.
scenario_stargz_mounts_converted() {
  local snapshot
  [ "$(id -u)" -eq 0 ] || skip "mounting needs root"
  need containerd
  need ctr-remote
  have go || skip "go is not installed"
  (cd "$repo/tests/go/stargz-grpc" && go build -o "$here/stargz-grpc" .) ||
    skip "the stargz daemon cannot be built: $(tail -n 1 "$here/log")"
  pushed "$work/estargz" converted/stargz:1 >/dev/null
  "$here/stargz-grpc" --address "$here/s.sock" --root "$here/stargz" --registry "$registry" \
    >"$here/stargz.log" 2>&1 </dev/null &
  echo $! >"$here/stargz.pid"
  cat >"$here/containerd.toml" <<TOML
version = 2
root = "$here/root"
state = "$here/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$here/c.sock"
[ttrpc]
address = "$here/t.sock"
[proxy_plugins.stargz]
type = "snapshot"
address = "$here/s.sock"
TOML
  timeout 60 sh -c 'until grep -q "stargz is ready" "$0"; do sleep 0.1; done' "$here/stargz.log"
  containerd --config "$here/containerd.toml" >"$here/containerd.log" 2>&1 </dev/null &
  echo $! >"$here/containerd.pid"
  timeout 60 sh -c 'until grep -q "containerd successfully booted" "$0"; do sleep 0.1; done' \
    "$here/containerd.log"
  local ctr=(ctr-remote --address "$here/c.sock")
  "${ctr[@]}" images rpull --plain-http "$registry/converted/stargz:1"
  # The one that no other has as its parent.
  "${ctr[@]}" snapshots --snapshotter stargz ls | awk 'NR > 1' >"$here/snapshots"
  snapshot=$(awk '{ key[$1]; if (NF > 2) parent[$2] }
    END { for (k in key) if (!(k in parent)) print k }' "$here/snapshots")
  "${ctr[@]}" snapshots --snapshotter stargz info "$snapshot" | grep -q containerd.io/snapshot/remote
  mkdir "$here/view"
  "${ctr[@]}" snapshots --snapshotter stargz view -t "$here/view" view "$snapshot" >"$here/mount"
  sh "$here/mount"
  facts "$here/view" | diff "$work/tree" -
}

# ---- rewrap, copy, diff ----

scenario_rewrap() {
  nacre image encrypt "oci:$work/plain:1" "$registry/rewrap:one" \
    --recipient "jwe:$work/keys/one.pub"
  nacre --json image rewrap "$registry/rewrap:one" "$registry/rewrap:two" \
    --decryption-key "$work/keys/one.pem" --recipient "pkcs7:$work/keys/two.crt" \
    --recipient "jwe:$work/keys/ec.pub" >"$here/made.json"
  [ "$(jq '[.layers[] | select(.from != .to)] | length' "$here/made.json")" -eq 0 ]
  skopeo_copy --decryption-key "$work/keys/two.pem" --decryption-key "$work/keys/two.crt" \
    "docker://$registry/rewrap:two" "oci:$here/two:1"
  same "$here/two"
  skopeo_copy --decryption-key "$work/keys/ec.pem" "docker://$registry/rewrap:two" "oci:$here/ec:1"
  same "$here/ec"
  refused skopeo_copy --decryption-key "$work/keys/one.pem" "docker://$registry/rewrap:two" \
    "oci:$here/one:1"
  nacre image rewrap "$registry/rewrap:one" "$registry/rewrap:both" --keep \
    --decryption-key "$work/keys/one.pem" --recipient "jwe:$work/keys/ec.pub"
  for key in one ec; do
    rm -rf "$here/$key"
    skopeo_copy --decryption-key "$work/keys/$key.pem" "docker://$registry/rewrap:both" \
      "oci:$here/$key:1"
    same "$here/$key"
  done
}

scenario_copy_through_every_place() {
  nacre image copy "oci:$work/plain:1" "$registry/copy/first:1"
  # The registry mounts it.
  nacre --json image copy "$registry/copy/first:1" "$registry/copy/second:1" >"$here/made.json"
  [ "$(jq -r '[.layers[].how] | unique | join(",")' "$here/made.json")" = mounted ]
  nacre image copy "$registry/copy/second:1" "oci:$here/layout:1"
  cmp <(manifest_of "$work/plain") <(manifest_of "$here/layout")
  same "$here/layout"
  nacre image copy "oci:$here/layout:1" "docker-archive:$here/a.tar:copied:1"
  # skopeo takes it for one that docker saved.
  skopeo_copy "docker-archive:$here/a.tar:copied:1" "oci:$here/back:1"
  same "$here/back"
  fails 3 "is there already" nacre image copy "oci:$here/layout:1" "docker-archive:$here/a.tar:x:1"
}

scenario_docker_archive_of_skopeo() {
  skopeo_copy "oci:$work/plain:1" "docker-archive:$here/a.tar:theirs:1"
  nacre image copy "docker-archive:$here/a.tar" "oci:$here/one:1"
  same "$here/one"
  nacre image convert "docker-archive:$here/a.tar:theirs:1" "oci:$here/lazy:1"
  nacre --json image diff "oci:$here/lazy:1" "oci:$work/estargz:1" \
    --insecure-policy accept-anything >"$here/diff.json"
  [ "$(jq '(.added + .removed + .changed) | length' "$here/diff.json")" -eq 0 ]
}

scenario_multi_arch() {
  local digest other
  # Two platforms of one image, as an index.
  pushed "$work/plain" multi:amd64 >/dev/null
  digest=$(skopeo inspect --tls-verify=false --raw "docker://$registry/multi:amd64" | sha256sum)
  digest=${digest%% *}
  other=$(skopeo inspect --tls-verify=false --raw "docker://$registry/multi:amd64" | wc -c)
  jq -cn --arg digest "sha256:$digest" --argjson size "$other" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [("amd64", "arm64") | {
      mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size,
      platform: { os: "linux", architecture: . } }] }' >"$here/index"
  curl --silent --fail -X PUT --data-binary "@$here/index" \
    -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
    "http://$registry/v2/multi/manifests/1"
  nacre image encrypt --all-platforms "$registry/multi:1" "$registry/multi:encrypted" \
    --recipient "jwe:$work/keys/one.pub"
  skopeo_copy --override-arch arm64 --decryption-key "$work/keys/one.pem" \
    "docker://$registry/multi:encrypted" "oci:$here/d:1"
  same "$here/d"
  nacre image copy --all-platforms "$registry/multi:encrypted" "oci:$here/all:1"
  [ "$(manifest_of "$here/all" | jq '.manifests | length')" -eq 2 ]
}

scenario_diff() {
  cp -a "$work/base" "$here/base"
  echo changed >>"$here/base/usr/share/data/7"
  chmod 600 "$here/base/etc/passwd"
  rm "$here/base/usr/share/data/9"
  echo new >"$here/base/new"
  make_layout "$here/other" "$here/base" "$work/top"
  nacre image convert "oci:$here/other:1" "oci:$here/other-lazy:1"
  nacre --json image diff "oci:$work/estargz:1" "oci:$here/other-lazy:1" \
    --insecure-policy accept-anything | tee "$here/diff.json"
  [ "$(jq -r '[.added[].path] | join(" ")' "$here/diff.json")" = /new ]
  [ "$(jq -r '[.removed[].path] | join(" ")' "$here/diff.json")" = /usr/share/data/9 ]
  [ "$(jq -r '[.changed[] | .path + ":" + ([.changes[].what] | join("+"))] | join(" ")' \
    "$here/diff.json")" = "/etc/passwd:mode /usr/share/data/7:size+content" ]
  # Two formats of one image have one tree.
  nacre --json image diff "oci:$work/estargz:1" "oci:$work/zstd:1" \
    --insecure-policy accept-anything >"$here/none.json"
  [ "$(jq '(.added + .removed + .changed) | length' "$here/none.json")" -eq 0 ]
}

scenario_the_same_bytes_twice() {
  local name
  nacre image encrypt "oci:$work/estargz:1" "oci:$here/e:1" --recipient "jwe:$work/keys/one.pub"
  for name in "$here/first" "$here/below/second"; do
    export SOURCE_DATE_EPOCH=1600000000
    nacre image convert "oci:$work/plain:1" "oci:$name/convert:1"
    nacre image copy "oci:$name/convert:1" "oci:$name/copy:1"
    nacre image copy "oci:$name/convert:1" "docker-archive:$name/archive.tar:a:1"
    nacre image decrypt "oci:$here/e:1" "oci:$name/decrypt:1" --decryption-key "$work/keys/one.pem"
    nacre image copy "oci:$work/plain:1" "oci:$name/index:1"
    nacre image index "oci:$name/index:1" --insecure-policy accept-anything
  done
  diff -r "$here/first" "$here/below/second"
  # What is encrypted is random, and must be.
  nacre image encrypt "oci:$work/estargz:1" "oci:$here/e2:1" --recipient "jwe:$work/keys/one.pub"
  ! cmp <(manifest_of "$here/e") <(manifest_of "$here/e2")
}

# What an image's layers have together, and what a mount of it that reads one small file fetches.
fetched_of() {
  local image=$1
  shift
  [ "$(id -u)" -eq 0 ] || skip "mounting needs root"
  [ -e /dev/fuse ] || skip "there is no /dev/fuse"
  mkdir -p "$here/mnt"
  rm -rf "$here/store-little"
  nacre mount --daemon "$image" "$here/mnt" --store "$here/store-little" --stats "$here/stats" "$@"
  cat "$here/mnt/etc/greeting"
  nacre umount "$here/mnt"
  jq -r '"\(.bytes) of \(.image_bytes) bytes"' "$here/stats"
}

lazily() {
  fetched_of "$@"
  [ "$(jq '.bytes * 5 < .image_bytes' "$here/stats")" = true ]
}

read_whole() {
  fetched_of "$@"
  [ "$(jq '.bytes >= .image_bytes' "$here/stats")" = true ]
}

scenario_index_makes_lazy() {
  local image
  image=$(pushed "$work/plain" index/plain:1)
  write_policy "$work/keys/signer.pub"
  nacre image sign --key "$work/keys/signer.key" "$image"
  nacre image index "$image" --policy "$here/policy.json" --key "$work/keys/signer.key"
  lazily "$image" --policy "$here/policy.json"
  same_mounted "$image" --policy "$here/policy.json"
  # Nobody else sees a difference.
  skopeo_copy "docker://$registry/index/plain:1" "oci:$here/copied:1"
  cmp <(manifest_of "$work/plain") <(manifest_of "$here/copied")
}

scenario_index_of_encrypted() {
  local image
  skopeo_copy --encryption-key "jwe:$work/keys/one.pub" "oci:$work/plain:1" \
    "docker://$registry/index/secret:1"
  image=$registry/index/secret:1
  write_policy "$work/keys/signer.pub"
  nacre image sign --key "$work/keys/signer.key" "$image"
  nacre image index "$image" --policy "$here/policy.json" --key "$work/keys/signer.key" \
    --decryption-key "$work/keys/one.pem"
  lazily "$image" --policy "$here/policy.json" --decryption-key "$work/keys/one.pem"
  same_mounted "$image" --policy "$here/policy.json" --decryption-key "$work/keys/one.pem"
}

scenario_index_by_cosign() {
  need cosign
  local image index password=secret
  image=$(pushed "$work/plain" index/cosigned:1)
  (cd "$here" && cosign_alone generate-key-pair)
  write_policy "$here/cosign.pub"
  index=$(nacre --json image index "$image" --insecure-policy accept-anything | jq -r .index)
  for image in "$image" "$registry/index/cosigned@$index"; do
    cosign_alone sign --key "$here/cosign.key" --tlog-upload=false --use-signing-config=false \
      --new-bundle-format=false --yes "$image"
  done
  lazily "$registry/index/cosigned:1" --policy "$here/policy.json"
  same_mounted "$registry/index/cosigned:1" --policy "$here/policy.json"
}

scenario_index_unsigned() {
  local image
  image=$(pushed "$work/plain" index/unsigned:1)
  write_policy "$work/keys/signer.pub"
  nacre image sign --key "$work/keys/signer.key" "$image"
  nacre image index "$image" --policy "$here/policy.json"
  read_whole "$image" --policy "$here/policy.json"
  same_mounted "$image" --policy "$here/policy.json"
  jq '.transports.docker[] += [{ type: "nacreAllowUnsignedLayerIndex" }]' "$here/policy.json" \
    >"$here/lax.json"
  lazily "$image" --policy "$here/lax.json"
}

# soci_layers LAYOUT: makes the zTOCs of its layers, and lists them.
soci_layers() {
  local layout=$1 number=0 digest kind
  have go || skip "go is not installed"
  [ -x "$work/soci-ztoc" ] || (cd "$repo/tests/go/soci-ztoc" && go build -o "$work/soci-ztoc" .) ||
    skip "soci-ztoc cannot be built"
  : >"$here/ztocs"
  manifest_of "$layout" | jq -r '.layers[] | .digest + " " + .mediaType' |
    while read -r digest kind; do
      number=$((number + 1))
      "$work/soci-ztoc" "$layout/blobs/${digest/:/\/}" 1000000 "$here/ztoc$number"
      jq -cn --arg layer "$digest" --arg kind "$kind" --arg file "$here/ztoc$number" \
        --arg digest "sha256:$(sha256sum <"$here/ztoc$number" | cut -d' ' -f1)" \
        --argjson size "$(stat -c %s "$here/ztoc$number")" '{
          mediaType: "application/octet-stream", digest: $digest, size: $size,
          annotations: { "com.amazon.soci.image-layer-digest": $layer,
            "com.amazon.soci.image-layer-mediaType": $kind } }' >>"$here/ztocs"
    done
}

# upload REPOSITORY FILE: a blob into the registry.
upload() {
  local place
  place=$(curl --silent --fail -X POST -D - -o /dev/null "http://$registry/v2/$1/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  case $place in
    *\?*) place=$place\& ;;
    *) place=$place? ;;
  esac
  curl --silent --fail -X PUT --data-binary "@$2" -H 'Content-Type: application/octet-stream' \
    "${place}digest=sha256:$(sha256sum <"$2" | cut -d' ' -f1)"
}

# soci_index REPOSITORY VERSION [SUBJECT]: pushes the index; prints its digest.
soci_index() {
  local file
  printf '{}' >"$here/empty"
  for file in "$here/empty" "$here"/ztoc[0-9]*; do
    upload "$1" "$file" >&2
  done
  jq -cn --arg kind "application/vnd.amazon.soci.index.v$2+json" --argjson subject "${3-null}" \
    --arg empty "sha256:$(sha256sum <"$here/empty" | cut -d' ' -f1)" --slurpfile layers "$here/ztocs" '{
      schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", artifactType: $kind,
      config: { mediaType: $kind, digest: $empty, size: 2 }, layers: $layers }
      + if $subject then { subject: $subject } else {} end' >"$here/soci.json"
  curl --silent --fail -X PUT --data-binary "@$here/soci.json" \
    -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    "http://$registry/v2/$1/manifests/sha256:$(sha256sum <"$here/soci.json" | cut -d' ' -f1)" >&2
  echo "sha256:$(sha256sum <"$here/soci.json" | cut -d' ' -f1)"
}

# The image's manifest names the index.
scenario_soci_v2() {
  local index
  soci_layers "$work/plain"
  pushed "$work/plain" soci/two:plain >/dev/null
  index=$(soci_index soci/two 2)
  manifest_of "$work/plain" | jq -c --arg index "$index" \
    '.annotations["com.amazon.soci.index-digest"] = $index' >"$here/image.json"
  curl --silent --fail -X PUT --data-binary "@$here/image.json" \
    -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
    "http://$registry/v2/soci/two/manifests/1"
  lazily "$registry/soci/two:1" --insecure-policy accept-anything
  same_mounted "$registry/soci/two:1" --insecure-policy accept-anything
}

# It is attached, and believed only where the policy says so.
scenario_soci_v1() {
  local image subject digest
  soci_layers "$work/plain"
  image=$(pushed "$work/plain" soci/one:1)
  write_policy "$work/keys/signer.pub"
  nacre image sign --key "$work/keys/signer.key" "$image"
  digest=${image#*@}
  subject=$(jq -cn --arg digest "$digest" --argjson size "$(manifest_of "$work/plain" | wc -c)" '{
    mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size }')
  soci_index soci/one 1 "$subject" >"$here/index-digest"
  # This registry has no referrers API: SOCI and we write the tag.
  jq -cn --arg digest "$(cat "$here/index-digest")" --argjson size "$(stat -c %s "$here/soci.json")" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [{
      mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size,
      artifactType: "application/vnd.amazon.soci.index.v1+json" }] }' >"$here/list.json"
  curl --silent --fail -X PUT --data-binary "@$here/list.json" \
    -H 'Content-Type: application/vnd.oci.image.index.v1+json' \
    "http://$registry/v2/soci/one/manifests/${digest/:/-}"
  read_whole "$image" --policy "$here/policy.json"
  jq '.transports.docker[] += [{ type: "nacreAllowUnsignedLayerIndex" }]' "$here/policy.json" \
    >"$here/lax.json"
  lazily "$image" --policy "$here/lax.json"
  same_mounted "$image" --policy "$here/lax.json"
}
