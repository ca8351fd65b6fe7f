#!/usr/bin/env bash
# Two entrepots in a row: clients → far → near → docker-registry behind token authentication. Pulls by every way of naming,
# signatures and referrers over the chain, and all of it again as its links go down one after the other.

. "$(dirname "$0")/../registries.sh"
need chain curl jq
command -v go >/dev/null || {
    loud_skip "client chain" "no go to build the token service with"
    finish
    exit 0
}

USER_NAME=me PASSWORD=hunter2
TOKENS=127.0.0.1:$(free_port)
ORIGIN=127.0.0.1:$(free_port)
NEAR=127.0.0.1:$(free_port)
SIGNATURE_TYPE=application/vnd.dev.cosign.simplesigning.v1+json
BOM_TYPE=application/vnd.example.bom

# make_guarded_origin: docker-registry that lets nobody in without a token of ours.
make_guarded_origin() {
    make_layout
    (cd "$ROOT/.ci/tokens" && go build -o "$WORK/tokens" main.go)
    start tokens "$WORK/tokens" "$TOKENS" ci "$USER_NAME" "$PASSWORD" "$WORK/tokens.pem"
    wait_for tokens curl -fsS "http://$TOKENS/token"
    cat >"$WORK/origin.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $WORK/origin}, delete: {enabled: true}}
http: {addr: "$ORIGIN"}
auth: {token: {realm: "http://$TOKENS/token", service: origin, issuer: ci, rootcertbundle: $WORK/tokens.pem}}
END
    start origin docker-registry serve "$WORK/origin.yml"
    wait_for origin curl -sS "http://$ORIGIN/v2/"
    copy --all --dest-creds "$USER_NAME:$PASSWORD" "oci:$LAYOUT:multi" "docker://$ORIGIN/library/multi:1"
    copy --all --dest-creds "$USER_NAME:$PASSWORD" "oci:$LAYOUT:private" "docker://$ORIGIN/org/app:1"
    sign library/multi "$INDEX_DIGEST"
}

# at_origin REPOSITORY METHOD PATH CURL-ARGUMENT…: a request with a token.
at_origin() {
    local repository=$1 method=$2 path=$3 token
    shift 3
    token=$(curl -fsS -u "$USER_NAME:$PASSWORD" "http://$TOKENS/token?service=origin&scope=repository:$repository:pull,push" | jq -r .token)
    curl -fsS -X "$method" -H "Authorization: Bearer $token" "$@" "http://$ORIGIN$path"
}

# put_blob REPOSITORY FILE: prints `{"digest": …, "size": …}`.
put_blob() {
    local digest location
    digest=sha256:$(sha256sum "$2" | cut -d' ' -f1)
    location=$(at_origin "$1" POST "/v2/$1/blobs/uploads/" -o /dev/null -D - | tr -d '\r' | sed -n 's#^[Ll]ocation: http://[^/]*##p')
    at_origin "$1" PUT "$location&digest=$digest" -H 'Content-Type: application/octet-stream' --data-binary "@$2" >/dev/null
    printf '{"digest":"%s","size":%d}\n' "$digest" "$(stat -c %s "$2")"
}

# put_manifest REPOSITORY REFERENCE TYPE FILE
put_manifest() {
    at_origin "$1" PUT "/v2/$1/manifests/$2" -H "Content-Type: $3" --data-binary "@$4"
}

# sign REPOSITORY DIGEST: what cosign pushes for an image, and an artifact that names the image as its subject. The origin
# has no referrers API, so the tag schema lists it, as clients do it.
sign() {
    local repository=$1 tag=${2/:/-} config layer oci=application/vnd.oci.image
    echo '{"rootfs":{"type":"layers"}}' >"$WORK/config.json"
    jq -nc --arg digest "$2" '{critical: {image: {"docker-manifest-digest": $digest}}}' >"$WORK/payload.json"
    config=$(put_blob "$repository" "$WORK/config.json")
    layer=$(put_blob "$repository" "$WORK/payload.json")
    jq -nc --argjson config "$config" --argjson layer "$layer" --arg type "$SIGNATURE_TYPE" --arg oci "$oci" '{
        schemaVersion: 2, mediaType: ($oci + ".manifest.v1+json"),
        config: ($config + {mediaType: ($oci + ".config.v1+json")}), layers: [$layer + {mediaType: $type}]
    }' >"$WORK/signature.json"
    put_manifest "$repository" "$tag.sig" $oci.manifest.v1+json "$WORK/signature.json"
    jq -c --arg type "$BOM_TYPE" --arg subject "$2" --arg oci "$oci" \
        '. + {artifactType: $type, subject: {mediaType: ($oci + ".index.v1+json"), digest: $subject, size: 1}}' \
        "$WORK/signature.json" >"$WORK/bom.json"
    BOM_DIGEST=sha256:$(sha256sum "$WORK/bom.json" | cut -d' ' -f1)
    put_manifest "$repository" "$BOM_DIGEST" $oci.manifest.v1+json "$WORK/bom.json"
    jq -nc --arg digest "$BOM_DIGEST" --argjson size "$(stat -c %s "$WORK/bom.json")" --arg type "$BOM_TYPE" --arg oci "$oci" '{
        schemaVersion: 2, mediaType: ($oci + ".index.v1+json"),
        manifests: [{mediaType: ($oci + ".manifest.v1+json"), digest: $digest, size: $size, artifactType: $type}]
    }' >"$WORK/referrers.json"
    put_manifest "$repository" "$tag" $oci.index.v1+json "$WORK/referrers.json"
}

# make_near: the entrepot that has the credentials.
make_near() {
    cat >"$WORK/near.yaml" <<END
http: {listen: "$NEAR"}
storage: {path: $WORK/near, min_free: 0, max_size: 8GiB}
cache: {max_size: 4GiB, revalidate_after: 1s}
upstreams:
  docker.io: {url: "http://$ORIGIN", default: true, username: $USER_NAME, password: $PASSWORD}
  quay.io: {url: "http://$ORIGIN", username: $USER_NAME, password: $PASSWORD}
log: {format: json}
END
    start near "$ENTREPOT" serve --config "$WORK/near.yaml"
    wait_for near curl -fsS "http://$NEAR/readyz"
}

nobody_gets_in_without_a_token() {
    same "$(curl -sS -o /dev/null -w '%{http_code}' "http://$ORIGIN/v2/library/multi/manifests/1")" 401
}

# pull REGISTRY REPOSITORY DIGEST
pull() {
    rm -rf "$WORK/pulled"
    copy --all "docker://$1/$2:1" "oci:$WORK/pulled:pulled"
    layout_is "$WORK/pulled" "$3"
}

# The same name at two registries: only ns tells the near one which is meant.
by_ns() {
    same "$(curl -fsS -H "Accept: $MANIFEST_TYPES" "http://$REGISTRY/v2/org/app/manifests/1?ns=quay.io" | sha256sum | cut -d' ' -f1)" \
        "${PRIVATE_DIGEST#sha256:}"
    curl -fsS "http://$NEAR/v2/_catalog" | jq -e '.repositories | index("quay.io/org/app")'
}

signature() {
    local layer
    same "$(manifest "$1" library/multi "${INDEX_DIGEST/:/-}.sig" | jq -r '.layers[0].mediaType')" "$SIGNATURE_TYPE"
    layer=$(manifest "$1" library/multi "${INDEX_DIGEST/:/-}.sig" | jq -r '.layers[0].digest')
    same "$(curl -fsS "http://$1/v2/library/multi/blobs/$layer" | jq -r '.critical.image["docker-manifest-digest"]')" "$INDEX_DIGEST"
}

referrers() {
    local listed
    listed=$(curl -fsS "http://$1/v2/library/multi/referrers/$INDEX_DIGEST?artifactType=$BOM_TYPE")
    same "$(jq -r '.manifests[].digest' <<<"$listed")" "$BOM_DIGEST"
    same "$(digest_of "$1" library/multi "$BOM_DIGEST")" "$BOM_DIGEST"
}

tags() {
    skopeo list-tags --tls-verify=false "docker://$1/library/multi" | jq -e '.Tags | index("1")'
}

nothing_is_no_outage() {
    same "$(curl -sS -o /dev/null -w '%{http_code}' "http://$REGISTRY/v2/library/multi/manifests/absent")" 404
    same "$(curl -sS "http://$REGISTRY/v2/library/multi/referrers/$AMD64_DIGEST" | jq -c .manifests)" '[]'
}

an_outage_is_no_absence() {
    local status
    for path in library/other/manifests/1 library/other/tags/list "library/multi/referrers/$PRIVATE_DIGEST"; do
        status=$(curl -sS -o /dev/null -w '%{http_code}' "http://$REGISTRY/v2/$path")
        grep -x '50[234]' <<<"$status"
    done
}

podman_pull() {
    local podman=(podman --root "$WORK/podman" --runroot "$WORK/podman-run" --tmpdir "$WORK/podman-tmp" --storage-driver vfs
        --cgroup-manager cgroupfs --events-backend none)
    HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home "${podman[@]}" rmi --all --force
    HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home "${podman[@]}" pull docker.io/library/multi:1
}

# The upstream that shows everybody what they may see there is at an address of its own. HOW is `right` or `wrong`.
guarded_by_skopeo() {
    local password=$PASSWORD
    [ "$1" = right ] || password=mistaken
    skopeo inspect --tls-verify=false --creds "$USER_NAME:$password" "docker://$GUARDED/org/app:1" | jq -r .Digest
}

same_by_skopeo() {
    same "$(guarded_by_skopeo right)" "$PRIVATE_DIGEST"
}

nobody_sees_what_is_guarded() {
    if guarded_by_skopeo wrong; then return 1; fi
    if skopeo inspect --tls-verify=false --no-creds "docker://$GUARDED/org/app:1"; then return 1; fi
    same "$(curl -sS -o /dev/null -w '%{http_code}' "http://$GUARDED/v2/org/app/manifests/1")" 401
}

guarded_by_podman() {
    local podman=(podman --root "$WORK/podman" --runroot "$WORK/podman-run" --tmpdir "$WORK/podman-tmp" --storage-driver vfs
        --cgroup-manager cgroupfs --events-backend none)
    export HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home REGISTRY_AUTH_FILE=$WORK/home/auth.json
    if "${podman[@]}" pull --tls-verify=false "$GUARDED/org/app:1"; then return 1; fi
    "${podman[@]}" login --tls-verify=false --username "$USER_NAME" --password-stdin "$GUARDED" <<<"$PASSWORD"
    "${podman[@]}" pull --tls-verify=false "$GUARDED/org/app:1"
}

guarded_by_ctr() {
    local ctr=(ctr --address "$WORK/containerd.sock" --namespace ci)
    if "${ctr[@]}" images pull --plain-http --snapshotter native --user "$USER_NAME:mistaken" "$1/org/app:1"; then return 1; fi
    "${ctr[@]}" images pull --plain-http --snapshotter native --user "$USER_NAME:$PASSWORD" "$1/org/app:1"
}

ctr_pull() {
    local ctr=(ctr --address "$WORK/containerd.sock" --namespace ci)
    "${ctr[@]}" images pull --hosts-dir "$WORK/root/etc/containerd/certs.d" --snapshotter native "$1"
    same "$("${ctr[@]}" images ls | awk -v name="$1" '$1 == name { print $3 }')" "$2"
    "${ctr[@]}" images rm --sync "$1"
}

make_guarded_origin
make_near
UPSTREAMS="{docker.io: {url: \"http://$NEAR\", default: true, send_ns: true}, quay.io: {url: \"http://$NEAR\", send_ns: true},
  guarded.test: {url: \"http://$ORIGIN\", visibility: passthrough, hosts: [localhost]}}"
make_entrepot
GUARDED=localhost:${REGISTRY##*:}

check chain "the origin lets nobody in without a token" nobody_gets_in_without_a_token
check chain "cold pull of an index through both" pull "$REGISTRY" library/multi "$INDEX_DIGEST"
check chain "the same from the near one" pull "$NEAR" library/multi "$INDEX_DIGEST"
check chain "a prefix names another registry at both ends" pull "$REGISTRY" quay.io/org/app "$PRIVATE_DIGEST"
check chain "ns names another registry at both ends" by_ns
check chain "a cosign signature through both" signature "$REGISTRY"
check chain "referrers through both, from an origin without their API" referrers "$REGISTRY"
check chain "tags through both" tags "$REGISTRY"
check chain "what is not there is not there, and nothing attached is an empty list" nothing_is_no_outage
check chain "skopeo: an upstream that wants to know who pulls" same_by_skopeo
check chain "skopeo: nobody else sees what is cached of it" nobody_sees_what_is_guarded
if [ "$(id -u)" -eq 0 ] && command -v podman containerd ctr >/dev/null; then
    mkdir -p "$WORK/home/.config/containers"
    cp "$POLICY" "$WORK/home/.config/containers/policy.json"
    start_containerd
    setup podman
    mv "$CONTAINERS_REGISTRIES_CONF" "$WORK/none.conf"
    cp "$WORK/root/etc/containers/registries.conf.d/50-entrepot.conf" "$CONTAINERS_REGISTRIES_CONF"
    check chain "podman" podman_pull
    # The other clients go to the addresses that they are given.
    mv "$WORK/none.conf" "$CONTAINERS_REGISTRIES_CONF"
    setup containerd
    check chain "containerd, docker.io" ctr_pull docker.io/library/multi:1 "$INDEX_DIGEST"
    check chain "containerd, quay.io" ctr_pull quay.io/org/app:1 "$PRIVATE_DIGEST"
    check chain "podman: an upstream that wants to know who pulls" guarded_by_podman
    check chain "containerd: the same, at its own address" guarded_by_ctr "$GUARDED"
    check chain "containerd: the same, by prefix" guarded_by_ctr "$REGISTRY/guarded.test"
else
    loud_skip "client chain: podman, containerd" "needs root and both"
fi
if find_regctl; then
    regctl registry set --tls disabled --skip-check "$REGISTRY"
    bom() { same "$(regctl artifact list --format '{{range .Descriptors}}{{.ArtifactType}}{{end}}' "$REGISTRY/library/multi:1")" "$BOM_TYPE"; }
    check chain "regctl artifact list" bom
fi

stop origin
stop tokens
# Longer than anything is fresh, so that the answers are those of an upstream that is gone.
sleep 2
check chain "origin stopped: pull" pull "$REGISTRY" library/multi "$INDEX_DIGEST"
check chain "origin stopped: the other registry" pull "$REGISTRY" quay.io/org/app "$PRIVATE_DIGEST"
check chain "origin stopped: signature" signature "$REGISTRY"
check chain "origin stopped: referrers" referrers "$REGISTRY"
check chain "origin stopped: tags" tags "$REGISTRY"
check chain "origin stopped: what was never asked for is an outage and no absence" an_outage_is_no_absence
stop near
sleep 2
check chain "near one stopped: pull" pull "$REGISTRY" library/multi "$INDEX_DIGEST"
check chain "near one stopped: signature" signature "$REGISTRY"
check chain "near one stopped: referrers" referrers "$REGISTRY"
stop entrepot KILL
start_entrepot
check chain "after kill -9, alone: pull" pull "$REGISTRY" library/multi "$INDEX_DIGEST"
check chain "after kill -9, alone: referrers" referrers "$REGISTRY"
check chain "after kill -9, alone: tags" tags "$REGISTRY"
finish
