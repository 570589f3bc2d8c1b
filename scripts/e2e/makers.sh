# shellcheck shell=bash
# shellcheck disable=SC2154 # what scripts/e2e-images sets
# Keys, images and claims of scripts/e2e-images. Sourced.

nacre() { "$NACRE_BIN" "$@"; }

# Ends the scenario without a verdict.
skip() {
  echo "$*" >"$here/skipped"
  exit 77
}

# need TOOL [INSTALLER]: skips where it is not there.
need() {
  have "$1" || skip "$1 is not installed; ${2-scripts/install-peers --only $1}"
}

# `insecure`: registries of this machine speak plain HTTP, and nobody has a policy for them.
skopeo_copy() {
  skopeo --insecure-policy copy --quiet --src-tls-verify=false --dest-tls-verify=false "$@"
}

# fails CODE TEXT COMMAND...: that it fails with this code and says this.
fails() {
  local code=$1 text=$2 got=0
  shift 2
  "$@" >"$here/fails.log" 2>&1 || got=$?
  cat "$here/fails.log"
  [ "$got" -eq "$code" ] || { echo "exit code $got, not $code: $*" && return 1; }
  grep -qF -- "$text" "$here/fails.log" || { echo "does not say: $text" && return 1; }
}

# refused COMMAND...: that somebody else's tool fails, whatever it says.
refused() {
  if "$@"; then
    echo "should have failed: $*"
    return 1
  fi
}

make_keys() {
  local keys=$work/keys name
  mkdir "$keys"
  for name in one two; do
    openssl genrsa -out "$keys/$name.pem" 2048
    openssl rsa -in "$keys/$name.pem" -pubout -out "$keys/$name.pub"
    openssl req -x509 -new -key "$keys/$name.pem" -subj "/CN=nacre $name" -days 2 \
      -out "$keys/$name.crt"
  done
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$keys/ec.pem"
  openssl pkey -in "$keys/ec.pem" -pubout -out "$keys/ec.pub"
  nacre image keygen "$keys/signer"
  cat >"$keys/providers.json" <<JSON
{"key-providers": {"shift": {"cmd": {"path": "python3",
  "args": ["$repo/tests/data/ocicrypt/keyprovider.py", "base64"]}}}}
JSON
}

# noise BYTES: bytes that do not compress, the same every time.
noise() {
  head -c "$1" /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff \
    -iv 00000000000000000000000000000000
}

# Two layers of what images have: directories, modes, links, large and small files, a whiteout.
make_roots() {
  local base=$work/base top=$work/top
  mkdir -p "$base"/{etc,usr/bin,usr/share/data,tmp} "$top/etc"
  chmod 1777 "$base/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$base/etc/passwd"
  echo 'to be removed' >"$base/etc/gone"
  seq 200 | while read -r number; do
    seq "$number" $((number * 7)) >"$base/usr/share/data/$number"
  done
  noise 6000000 >"$base/usr/share/noise"
  seq 300000 >"$base/usr/share/numbers"
  noise 3000 >"$base/usr/bin/program"
  chmod 4755 "$base/usr/bin/program"
  ln -s program "$base/usr/bin/link"
  ln "$base/usr/bin/program" "$base/usr/bin/hard"
  echo 'from the top' >"$top/etc/greeting"
  : >"$top/etc/.wh.gone"
}

# make_layout LAYOUT ROOT...: an image of these trees, each a gzip layer.
make_layout() {
  local layout=$1 root
  shift
  umoci init --layout "$layout"
  umoci new --image "$layout:1"
  for root in "$@"; do
    tar -C "$root" --sort=name --numeric-owner --owner=0 --group=0 --mtime=@1700000000 \
      -cf "$work/layer.tar" .
    umoci raw add-layer --image "$layout:1" "$work/layer.tar"
  done
  umoci gc --layout "$layout"
}

# The image in its ordinary form and both lazy ones; `tree` is what is in all of them.
make_images() {
  make_roots
  make_layout "$work/plain" "$work/base" "$work/top"
  nacre image convert "oci:$work/plain:1" "oci:$work/estargz:1" --format estargz
  nacre image convert "oci:$work/plain:1" "oci:$work/zstd:1" --format zstd-chunked
  tree "$work/plain" >"$work/tree"
  [ "$(wc -l <"$work/tree")" -gt 400 ]
}

# facts ROOT: a line for each file of a tree, and the digests of their contents. What eStargz puts
# into a tar besides is not of the image.
facts() {
  (
    cd "$1" || exit 1
    find . -mindepth 1 ! -name stargz.index.json ! -name '.*prefetch.landmark' \
      -printf '%P %y %m %U %G %T@ %l\n' | LC_ALL=C sort
    find . -type f ! -name stargz.index.json ! -name '.*prefetch.landmark' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
  )
}

# tree LAYOUT [TAG]: the facts of what umoci unpacks.
tree() {
  local bundle
  bundle=$(mktemp -d "$work/bundle-XXXXXX")
  if [ "$(id -u)" -eq 0 ]; then
    umoci unpack --image "$1:${2-1}" "$bundle/b" >&2
  else
    umoci unpack --rootless --image "$1:${2-1}" "$bundle/b" >&2
  fi
  facts "$bundle/b/rootfs"
  rm -rf "$bundle"
}

# same LAYOUT [TAG]: that an image holds the tree that all have.
same() { tree "$@" | diff "$work/tree" - | head -n 20 | tee "$here/differences" && [ ! -s "$here/differences" ]; }

# same_mounted IMAGE OPTION...: that the mounted image holds it.
same_mounted() {
  local image=$1
  shift
  [ "$(id -u)" -eq 0 ] || skip "mounting needs root"
  [ -e /dev/fuse ] || skip "there is no /dev/fuse"
  mkdir -p "$here/mnt"
  nacre mount --daemon "$image" "$here/mnt" --store "$here/store" "$@"
  facts "$here/mnt" | diff "$work/tree" - | head -n 20 >"$here/differences" || true
  nacre umount "$here/mnt"
  cat "$here/differences"
  [ ! -s "$here/differences" ]
}

tear_down() {
  local file
  if [ -d "$here/mnt" ] && mountpoint -q "$here/mnt"; then
    nacre umount --lazy "$here/mnt"
  fi
  # What others mounted goes before they do; the deepest first.
  awk -v here="$here/" 'index($2, here) == 1 { print $2 }' /proc/self/mounts | tac |
    while read -r file; do umount "$file" || umount --lazy "$file"; done
  for file in "$here"/*.pid; do
    [ -e "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || true
  done
}

# manifest_of LAYOUT [TAG]: the manifest's bytes.
manifest_of() {
  local digest
  digest=$(jq -r --arg tag "${2-1}" '.manifests[]
    | select(.annotations["org.opencontainers.image.ref.name"] == $tag) | .digest' "$1/index.json")
  cat "$1/blobs/${digest/:/\/}"
}

# go_opens LAYOUT KEY...: that Go's ocicrypt opens every layer, to the plain layers' bytes.
go_opens() {
  local layout=$1 number digest
  shift
  go_program
  for number in $(manifest_of "$layout" | jq '.layers | keys[]'); do
    manifest_of "$layout" | jq ".layers[$number]" >"$here/descriptor.json"
    digest=$(jq -r '.digest | sub(":"; "/")' "$here/descriptor.json")
    "$work/ocicrypt-interop" decrypt "$here/descriptor.json" "$@" <"$layout/blobs/$digest" \
      >"$here/opened"
    digest=$(manifest_of "$work/plain" | jq -r ".layers[$number].digest | sub(\":\"; \"/\")")
    cmp "$here/opened" "$work/plain/blobs/$digest"
  done
}

# Builds the Go side of tests/go/ocicrypt-interop.
go_program() {
  [ -x "$work/ocicrypt-interop" ] && return
  have go || skip "go is not installed"
  (cd "$repo/tests/go/ocicrypt-interop" && go build -o "$work/ocicrypt-interop" .) ||
    skip "Go's ocicrypt cannot be built: $(tail -n 1 "$here/log")"
}

# A policy that wants what is in the registry signed by the key in this file.
write_policy() {
  jq -n --arg registry "$registry" --arg key "$1" '{
    default: [{ type: "reject" }],
    transports: { docker: { ($registry): [{
      type: "sigstoreSigned", keyPath: $key, signedIdentity: { type: "matchRepository" } }] } }
  }' >"$here/policy.json"
}

# cosign that talks to nothing but the registry.
cosign_alone() {
  HOME=$here COSIGN_PASSWORD=${password-secret} HTTPS_PROXY=http://127.0.0.1:1 \
    HTTP_PROXY=http://127.0.0.1:1 NO_PROXY=127.0.0.1 cosign "$@"
}

cosign_verifies() {
  cosign_alone verify --key "$1" --insecure-ignore-tlog --new-bundle-format=false "$2"
}

# pushed LAYOUT NAME: puts an image into the registry; prints its name with its digest.
pushed() {
  nacre --json image copy "oci:$1:1" "$registry/$2" >"$here/pushed.json"
  echo "$registry/${2%%:*}@$(jq -r .digest "$here/pushed.json")"
}
