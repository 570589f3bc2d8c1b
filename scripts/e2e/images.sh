# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-containerd sets
# The images of scripts/e2e-containerd, made of busybox and generated files, and the registry that
# has them. Sourced.
#
# Repositories below `signed/` need a signature by the policy, those below `open/` do not.

# A statically linked busybox out of Debian's package, which need not be installed.
busybox() {
  local cached=$NACRE_CACHE/e2e/busybox
  if [ ! -x "$cached" ]; then
    mkdir -p "$NACRE_CACHE/e2e/deb"
    (cd "$NACRE_CACHE/e2e/deb" && apt-get -o APT::Sandbox::User=root -qq download busybox-static)
    dpkg-deb -x "$NACRE_CACHE"/e2e/deb/busybox-static_*.deb "$NACRE_CACHE/e2e/deb/root"
    cp "$NACRE_CACHE/e2e/deb/root/bin/busybox" "$cached"
    rm -rf "$NACRE_CACHE/e2e/deb"
  fi
  echo "$cached"
}

# noise BYTES: bytes that do not compress, the same every time.
noise() {
  head -c "$1" /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff \
    -iv 00000000000000000000000000000000
}

# pack ROOT TAR: the same tree gives the same archive.
pack() {
  tar -C "$1" --sort=name --numeric-owner --mtime=@1700000000 -cf "$2" .
}

# The layer that all images stand on: a shell, three hundred small files, two large ones, and the
# digests of all these in /etc/digests.
make_base_root() {
  local root=$1 applet file
  mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,run,root,usr/share/data}
  chmod 1777 "$root/tmp"
  cp "$(busybox)" "$root/bin/busybox"
  for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  printf 'user:x:1000:1000:user:/tmp:/bin/sh\n' >>"$root/etc/passwd"
  printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
  echo 'from the base' >"$root/etc/greeting"
  echo 'to be removed' >"$root/etc/gone"
  seq 300 | awk -v root="$root/usr/share/data" '{
    path = root "/" $1
    for (i = 0; i < 20 + $1 % 70; i++) print "line " i " of file " $1 >path
    close(path)
  }'
  noise 8000000 >"$root/usr/share/noise"
  seq 400000 >"$root/usr/share/numbers"
  (cd "$root" && find bin/busybox usr/share -type f -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum) >"$root/etc/digests"
  chown -R 1000:1000 "$root/usr/share/data"
  for file in "$root/etc/digests" "$root/usr/share/noise"; do
    [ -s "$file" ] || die "made no $file"
  done
}

# An application's layer: changes one file, removes another.
make_app_root() {
  local root=$1 name=$2
  mkdir -p "$root"/{app,etc}
  echo "application $name" >"$root/app/name"
  noise 1000000 | cat "$root/app/name" - >"$root/app/data"
  echo "from $name" >"$root/etc/greeting"
  : >"$root/etc/.wh.gone"
}

# layers NAME TAR...: an OCI layout NAME with these layers on top of those of layout FROM, if set.
layers() {
  local layout=$images/$1 archive
  shift
  if [ -n "${FROM-}" ]; then
    cp -r "$images/$FROM" "$layout"
  else
    umoci init --layout "$layout"
    umoci new --image "$layout:latest"
  fi
  for archive in "$@"; do
    umoci raw add-layer --image "$layout:latest" "$archive"
  done
  umoci config --image "$layout:latest" --config.cmd /bin/sh \
    --config.env PATH=/bin ${ENTRYPOINT:+--config.entrypoint "$ENTRYPOINT"}
  umoci gc --layout "$layout"
}

# convert NAME LAYOUT FORMAT: lazy layout NAME out of another.
convert() {
  nacre image convert "oci:$images/$2:latest" "oci:$images/$1:latest" --format "$3"
}

# make_keys DIRECTORY: to decrypt layers (`layer`) and to sign images (`signer`), and others that do
# not fit.
make_keys() {
  local name
  mkdir -m 700 "$1"
  for name in layer other-layer; do
    openssl genrsa -out "$1/$name.pem" 2048 2>/dev/null
    openssl rsa -in "$1/$name.pem" -pubout -out "$1/$name.pub" 2>/dev/null
  done
  for name in signer other-signer; do
    nacre image keygen "$1/$name"
  done
}

# push LAYOUT REPOSITORY:TAG [SKOPEO OPTION...]
push() {
  local layout=$1 to=$2
  shift 2
  skopeo --insecure-policy copy --quiet --dest-tls-verify=false "$@" \
    "oci:$images/$layout:latest" "docker://$registry/$to"
}

sign() { nacre image sign --key "$work/keys/signer.key" "$registry/$1"; }

publish() {
  push "$@"
  sign "$2"
}

# Everything that scenarios pull, but for what they push themselves.
make_images() {
  local images=$work/images key=jwe:$work/keys/layer.pub
  mkdir -p "$images" "$work/roots"
  make_base_root "$work/roots/base"
  pack "$work/roots/base" "$work/base.tar"
  for name in one two; do
    make_app_root "$work/roots/$name" "$name"
    pack "$work/roots/$name" "$work/$name.tar"
  done
  # The image of pods' sandboxes: a program that only waits.
  mkdir -p "$work/roots/pause/bin"
  cp "$(busybox)" "$work/roots/pause/bin/sleep"
  pack "$work/roots/pause" "$work/pause.tar"
  layers pause "$work/pause.tar"
  umoci config --image "$images/pause:latest" --clear=config.cmd --config.entrypoint /bin/sleep \
    --config.cmd 1000000
  push pause open/pause:1
  skopeo inspect --raw --tls-verify=false "docker://$registry/open/pause:1" | sha256sum |
    cut -c 1-64 >"$work/pause.digest"

  layers ordinary "$work/base.tar" "$work/one.tar"
  push ordinary open/ordinary:1
  convert estargz ordinary estargz
  convert zstd ordinary zstd-chunked
  # On the very base layer that `estargz` has: what is lazy already is copied.
  layers base "$work/base.tar"
  convert base-lazy base estargz
  FROM=base-lazy layers mixed "$work/two.tar"
  convert second mixed estargz
  publish estargz signed/plain:1
  publish estargz signed/encrypted:1 --encryption-key "$key"
  publish zstd signed/zstd:1
  publish zstd signed/zstd-encrypted:1 --encryption-key "$key"
  publish mixed signed/mixed:1
  publish second signed/second:1
  push estargz open/lazy:1
  push_index signed/multi:1
  sign signed/multi:1
}

# ---- what skopeo does not push ----

# push_blob REPOSITORY FILE: prints `"digest":...,"size":...`.
push_blob() {
  local at digest
  digest=sha256:$(sha256sum "$2" | cut -d ' ' -f 1)
  at=$(curl --silent --show-error --fail -X POST -D - -o /dev/null \
    "http://$registry/v2/$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
  curl --silent --show-error --fail -X PUT -H 'Content-Type: application/octet-stream' \
    --data-binary "@$2" "$at&digest=$digest"
  printf '"digest":"%s","size":%s' "$digest" "$(stat -c %s "$2")"
}

# push_manifest REPOSITORY REFERENCE TYPE FILE: the same for a manifest.
push_manifest() {
  curl --silent --show-error --fail -X PUT -H "Content-Type: $3" --data-binary "@$4" \
    "http://$registry/v2/$1/manifests/$2"
  printf '"digest":"sha256:%s","size":%s' "$(sha256sum "$4" | cut -d ' ' -f 1)" "$(stat -c %s "$4")"
}

# push_index REPOSITORY:TAG: an index as BuildKit writes it: this machine's image, one of another
# architecture, and a manifest with the provenance of the first, of platform unknown/unknown.
push_index() {
  local repository=${1%:*} at=$work/index oci=application/vnd.oci.image
  local own own_digest other config statement attestation architecture
  mkdir -p "$at"
  push estargz "$repository:own"
  skopeo inspect --raw --tls-verify=false "docker://$registry/$repository:own" >"$at/own"
  own=$(push_manifest "$repository" own "$oci.manifest.v1+json" "$at/own")
  own_digest=sha256:$(sha256sum "$at/own" | cut -d ' ' -f 1)
  skopeo inspect --config --raw --tls-verify=false "docker://$registry/$repository:own" >"$at/own-config"
  architecture=$(jq -r .architecture "$at/own-config")

  jq -c '.architecture = "riscv64"' "$at/own-config" >"$at/other-config"
  config=$(push_blob "$repository" "$at/other-config")
  jq -c --argjson config "{$config}" '.config += $config' "$at/own" >"$at/other"
  other=$(push_manifest "$repository" other "$oci.manifest.v1+json" "$at/other")

  printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2"}' \
    >"$at/statement"
  statement=$(push_blob "$repository" "$at/statement")
  printf '{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$(sha256sum "$at/statement" | cut -d ' ' -f 1)" >"$at/attestation-config"
  config=$(push_blob "$repository" "$at/attestation-config")
  printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"application/vnd.in-toto+json",%s,"annotations":{"in-toto.io/predicate-type":"https://slsa.dev/provenance/v0.2"}}]}' \
    "$oci.manifest.v1+json" "$oci.config.v1+json" "$config" "$statement" >"$at/attestation"
  attestation=$(push_manifest "$repository" attestation "$oci.manifest.v1+json" "$at/attestation")

  jq -cn --argjson own "{$own}" --argjson other "{$other}" --argjson attestation "{$attestation}" \
    --arg architecture "$architecture" --arg of "$own_digest" --arg type "$oci.manifest.v1+json" '
    def image($architecture): {mediaType: $type, platform: {os: "linux", architecture: $architecture}};
    { schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [
      image("riscv64") + $other, image($architecture) + $own,
      $attestation + { mediaType: $type, platform: { os: "unknown", architecture: "unknown" },
        annotations: { "vnd.docker.reference.digest": $of,
          "vnd.docker.reference.type": "attestation-manifest" } } ] }' >"$at/index"
  push_manifest "$repository" "${1#*:}" "application/vnd.oci.image.index.v1+json" "$at/index" \
    >/dev/null
}
