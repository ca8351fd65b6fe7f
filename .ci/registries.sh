# shellcheck shell=bash
# shellcheck disable=SC2034 # the digests are read by the scripts that source this file
#
# Sourced by the client suite: images made here without any network, the origin that holds them, and entrepot in front.

# shellcheck source=.ci/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LAYOUT=$WORK/layout
SCHEME=http
export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf
POLICY=$WORK/policy.json
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$POLICY"
: >"$CONTAINERS_REGISTRIES_CONF"

copy() {
    skopeo --policy "$POLICY" --insecure-policy copy --quiet --src-tls-verify=false --dest-tls-verify=false "$@"
}

# bytes SEED SIZE: the same incompressible bytes for the same seed on every machine.
bytes() {
    head -c "$2" /dev/zero |
        openssl enc -aes-128-ctr -nosalt -K "$(printf '%s' "$1" | md5sum | cut -c1-32)" -iv 00000000000000000000000000000000
}

# store FILE: moves a file under its digest into the layout; prints `{"digest": …, "size": …}`.
store() {
    local hex size
    hex=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$LAYOUT/blobs/sha256/$hex"
    printf '{"digest":"sha256:%s","size":%d}\n' "$hex" "$size"
}

# layer SEED SIZE: one gzip layer with a file of that many random bytes and a file of text; prints `DIFF_ID DESCRIPTOR`.
layer() {
    local tree=$WORK/tree diff_id
    rm -rf "$tree"
    mkdir -p "$tree/srv/$1"
    bytes "$1" "$2" >"$tree/srv/$1/random"
    seq 20000 >"$tree/srv/$1/text"
    tar --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -C "$tree" -cf "$WORK/layer.tar" srv
    diff_id=sha256:$(sha256sum "$WORK/layer.tar" | cut -d' ' -f1)
    gzip --no-name --fast --force "$WORK/layer.tar"
    printf '%s %s\n' "$diff_id" "$(store "$WORK/layer.tar.gz" | jq -c '. + {mediaType: "application/vnd.oci.image.layer.v1.tar+gzip"}')"
}

# image ARCHITECTURE SEED…: one OCI image with a layer of 3 MiB for every seed; prints its manifest's descriptor.
image() {
    local architecture=$1 seed diff_id descriptor diff_ids='[]' layers='[]' config
    shift
    for seed in "$@"; do
        read -r diff_id descriptor < <(layer "$seed" $((3 << 20)))
        diff_ids=$(jq -c --arg id "$diff_id" '. + [$id]' <<<"$diff_ids")
        layers=$(jq -c --argjson layer "$descriptor" '. + [$layer]' <<<"$layers")
    done
    jq -nc --arg architecture "$architecture" --argjson diff_ids "$diff_ids" '{
        created: "2023-11-14T22:13:20Z", architecture: $architecture, os: "linux",
        config: {Cmd: ["/srv/nothing"]},
        rootfs: {type: "layers", diff_ids: $diff_ids},
        history: [$diff_ids[] | {created: "2023-11-14T22:13:20Z", created_by: "ci"}]
    }' >"$WORK/config.json"
    config=$(store "$WORK/config.json" | jq -c '. + {mediaType: "application/vnd.oci.image.config.v1+json"}')
    jq -nc --argjson config "$config" --argjson layers "$layers" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: $layers
    }' >"$WORK/manifest.json"
    store "$WORK/manifest.json" | jq -c --arg architecture "$architecture" '. + {
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        platform: {architecture: $architecture, os: "linux"}
    }'
}

# make_layout: an OCI layout with `multi` (an index of two platforms, three layers each, one of them shared) and
# `private` (one image).
make_layout() {
    local amd64 arm64 index private
    mkdir -p "$LAYOUT/blobs/sha256"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$LAYOUT/oci-layout"
    amd64=$(image amd64 base amd64-a amd64-b)
    arm64=$(image arm64 base arm64-a arm64-b)
    private=$(image amd64 private-a private-b)
    jq -nc --argjson amd64 "$amd64" --argjson arm64 "$arm64" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [$amd64, $arm64]
    }' >"$WORK/index.json"
    index=$(store "$WORK/index.json" | jq -c '. + {mediaType: "application/vnd.oci.image.index.v1+json"}')
    jq -nc --argjson index "$index" --argjson private "$private" '{
        schemaVersion: 2, manifests: [
            ($index + {annotations: {"org.opencontainers.image.ref.name": "multi"}}),
            ($private + {annotations: {"org.opencontainers.image.ref.name": "private"}})
        ]
    }' >"$LAYOUT/index.json"
    INDEX_DIGEST=$(jq -r .digest <<<"$index")
    AMD64_DIGEST=$(jq -r .digest <<<"$amd64")
    PRIVATE_DIGEST=$(jq -r .digest <<<"$private")
}

start_origin() {
    start origin docker-registry serve "$WORK/origin.yml"
    wait_for origin curl -fsS "http://$ORIGIN/v2/"
}

# make_origin: Debian's docker-registry with library/multi:1 (OCI index) and library/schema2:1 (Docker schema 2).
make_origin() {
    make_layout
    ORIGIN=127.0.0.1:$(free_port)
    cat >"$WORK/origin.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/origin}, delete: {enabled: true}}
http: {addr: "$ORIGIN"}
END
    start_origin
    copy --all "oci:$LAYOUT:multi" "docker://$ORIGIN/library/multi:1"
    copy --format v2s2 "oci:$LAYOUT:private" "docker://$ORIGIN/library/schema2:1"
    SCHEMA2_DIGEST=$(digest_of "$ORIGIN" library/schema2 1)
}

# make_entrepot: writes the configuration with the origin, if one was made, as default upstream, and starts it. SPARSE
# may be set to another value of push.sparse, UPSTREAMS to another map of upstreams, AUTH to who may do what, TLS to what
# http.tls holds (make_tls sets it), ADDRESS to another address of this machine.
make_entrepot() {
    local upstreams=${UPSTREAMS:-}
    [ -n "$upstreams" ] || upstreams='{}'
    [ -z "${ORIGIN:-}" ] || [ -n "${UPSTREAMS:-}" ] || upstreams="{docker.io: {url: \"http://$ORIGIN\", default: true}}"
    REGISTRY=${ADDRESS:-127.0.0.1}:$(free_port)
    cat >"$WORK/config.yaml" <<END
http:
  listen: "$REGISTRY"
${TLS:+  tls: $TLS}
storage:
  path: $WORK/store
  min_free: 0
  max_size: 8GiB
cache:
  max_size: 4GiB
  revalidate_after: 1s
push:
  sparse: ${SPARSE:-indexes}
upstreams: $upstreams
${AUTH:+auth: $AUTH}
log:
  format: json
END
    start_entrepot
}

start_entrepot() {
    start entrepot "$ENTREPOT" serve --config "$WORK/config.yaml"
    wait_for entrepot curl -fsS "$SCHEME://$REGISTRY/readyz"
}

# make_tls [NAME]: an authority and a certificate for this machine in $WORK/tls, for the next make_entrepot. From here on curl
# believes that authority, and nobody else.
make_tls() {
    "$ENTREPOT" setup tls --self-signed --host "${1:-127.0.0.1}" --out "$WORK/tls" >"$WORK/setup.log"
    TLS="{certificate: $WORK/tls/server.crt, key: $WORK/tls/server.key}"
    SCHEME=https
    export CURL_CA_BUNDLE=$WORK/tls/ca.crt
}

# start_containerd: one of our own, all of whose files are in $WORK; it listens on $WORK/containerd.sock.
start_containerd() {
    cat >"$WORK/containerd.toml" <<END
version = 2
root = "$WORK/containerd"
state = "$WORK/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$WORK/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$WORK/opt"
END
    start containerd containerd --config "$WORK/containerd.toml"
    wait_for containerd ctr --address "$WORK/containerd.sock" version
}

# find_regctl: puts regctl into PATH, built if it is not installed; false, loudly, if there is none to be had.
find_regctl() {
    export REGCTL_CONFIG=$WORK/regctl.json
    command -v regctl >/dev/null && return 0
    if command -v go >/dev/null &&
        GOBIN=$WORK/bin go install github.com/regclient/regclient/cmd/regctl@v0.11.7 >"$WORK/go.log" 2>&1; then
        PATH=$WORK/bin:$PATH
        return 0
    fi
    loud_skip "client regctl" "neither installed nor to be built: $(tail -n 1 "$WORK/go.log" 2>/dev/null || echo no go)"
    return 1
}

MANIFEST_TYPES='application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json'

# manifest REGISTRY REPOSITORY REFERENCE: its bytes.
manifest() {
    curl -fsS -H "Accept: $MANIFEST_TYPES" "http://$1/v2/$2/manifests/$3"
}

# digest_of REGISTRY REPOSITORY REFERENCE: the digest of the bytes that a GET brings.
digest_of() {
    manifest "$@" | sha256sum | sed 's/^\([0-9a-f]*\) .*/sha256:\1/'
}

# layout_is DIRECTORY DIGEST: an OCI layout whose single entry is that digest and whose every blob matches its name.
layout_is() {
    same "$(jq -r '.manifests[0].digest' "$1/index.json")" "$2"
    (cd "$1/blobs/sha256" && for blob in *; do echo "$blob  $blob"; done | sha256sum --check --quiet)
}

# snippet NAME: the fenced block of docs/clients.md marked `<!-- snippet: NAME -->`, with this run's address in it, so
# that the documentation is what is tested.
snippet() {
    awk -v mark="<!-- snippet: $1 -->" '
        index($0, mark) { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside { print }
    ' "$ROOT/docs/clients.md" | sed -e "s/127\.0\.0\.1:5000/$REGISTRY/g" -e "s#/etc/containerd/#$WORK/root/etc/containerd/#" | grep .
}

# setup CLIENT: the files that entrepot says the client needs, below $WORK/root as they would lie below /.
setup() {
    rm -rf "$WORK/root"
    "$ENTREPOT" setup "$1" --config "$WORK/config.yaml" --write "$WORK/root"
}

# run_snippet NAME: runs it as a script; a function of this shell stands for a program when it was exported.
run_snippet() {
    snippet "$1" >"$WORK/snippet.sh"
    bash -euo pipefail "$WORK/snippet.sh"
}

# need CLIENT PROGRAM…: leaves the script, loudly, when a program is missing.
need() {
    local client=$1 program
    shift
    for program in docker-registry skopeo "$@"; do
        if ! command -v "$program" >/dev/null; then
            loud_skip "client $client" "$program is not installed"
            finish
            exit 0
        fi
    done
}

# need_root CLIENT: leaves the script, loudly, when a daemon could not mount and unpack as it must.
need_root() {
    [ "$(id -u)" -eq 0 ] || {
        loud_skip "client $1" "needs root"
        finish
        exit 0
    }
}
