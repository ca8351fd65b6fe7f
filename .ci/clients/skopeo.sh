#!/usr/bin/env bash
# skopeo (containers/image): pull through, push, copy of an index, mount, tags, inspect, delete.

. "$(dirname "$0")/../registries.sh"
need skopeo

pull() {
    rm -rf "$WORK/pulled"
    copy --all "docker://$REGISTRY/$1" "oci:$WORK/pulled:pulled"
    layout_is "$WORK/pulled" "$2"
}

pull_schema2() {
    rm -rf "$WORK/pulled-dir"
    copy "docker://$REGISTRY/library/schema2:1" "dir:$WORK/pulled-dir"
    same "sha256:$(sha256sum <"$WORK/pulled-dir/manifest.json" | cut -d' ' -f1)" "$SCHEMA2_DIGEST"
}

push_private() {
    copy "oci:$LAYOUT:private" "docker://$REGISTRY/team/app:1"
    same "$(digest_of "$REGISTRY" team/app 1)" "$PRIVATE_DIGEST"
}

push_index() {
    copy --all "oci:$LAYOUT:multi" "docker://$REGISTRY/team/multi:1"
    same "$(digest_of "$REGISTRY" team/multi 1)" "$INDEX_DIGEST"
}

push_schema2() {
    copy --format v2s2 "oci:$LAYOUT:private" "docker://$REGISTRY/team/schema2:1"
    same "$(digest_of "$REGISTRY" team/schema2 1)" "$SCHEMA2_DIGEST"
}

# Both ends are one registry, so skopeo asks for mounts; afterwards no layer may be missing in the second repository.
copy_between_repositories() {
    copy --all "docker://$REGISTRY/team/multi:1" "docker://$REGISTRY/other/multi:1"
    pull other/multi:1 "$INDEX_DIGEST"
}

tags() {
    copy "oci:$LAYOUT:private" "docker://$REGISTRY/team/app:2"
    same "$(skopeo list-tags --tls-verify=false "docker://$REGISTRY/team/app" | jq -c .Tags)" '["1","2"]'
}

inspect() {
    same "$(skopeo inspect --tls-verify=false "docker://$REGISTRY/team/app:1" | jq -r .Digest)" "$PRIVATE_DIGEST"
    same "$(skopeo inspect --tls-verify=false --raw "docker://$REGISTRY/library/multi:1" | jq -r '.manifests[0].digest')" "$AMD64_DIGEST"
}

delete() {
    copy --all "oci:$LAYOUT:multi" "docker://$REGISTRY/gone/multi:1"
    skopeo delete --tls-verify=false "docker://$REGISTRY/gone/multi:1"
    same "$(curl -sS -o /dev/null -w '%{http_code}' "http://$REGISTRY/v2/gone/multi/manifests/$INDEX_DIGEST")" 404
    same "$(curl -sS -o /dev/null -w '%{http_code}' "http://$REGISTRY/v2/gone/multi/manifests/1")" 404
}

# The snippet starts entrepot itself; the trap put before it ends that process however the snippet ends.
in_ci() {
    { echo 'trap '\''kill "$!"; wait "$!" || true'\'' EXIT'; snippet ci; } >"$WORK/ci.sh"
    cd "$WORK"
    # shellcheck disable=SC2317 # called by the snippet
    entrepot() { exec "$ENTREPOT" "$@"; }
    export -f entrepot
    export ENTREPOT
    bash -euo pipefail ci.sh
}

make_origin
make_entrepot

check skopeo "cold pull of an index keeps every digest" pull library/multi:1 "$INDEX_DIGEST"
check skopeo "cold pull of a Docker schema 2 image keeps its bytes" pull_schema2
check skopeo "push, the manifest comes back byte for byte" push_private
check skopeo "pull of the pushed image" pull team/app:1 "$PRIVATE_DIGEST"
check skopeo "push of an index with copy --all" push_index
check skopeo "push as Docker schema 2" push_schema2
check skopeo "copy between two repositories (mounts)" copy_between_repositories
check skopeo "list-tags" tags
check skopeo "inspect" inspect
check skopeo "delete, then 404 by digest and by tag" delete
check skopeo "docs: fill for an air gap" run_snippet fill
stop origin
check skopeo "warm pull of the index with the origin stopped" pull library/multi:1 "$INDEX_DIGEST"
check skopeo "warm pull of schema 2 with the origin stopped" pull_schema2
carry() { (cd "$WORK" && run_snippet carry) && same "$(digest_of "$REGISTRY" carried/multi 1)" "$INDEX_DIGEST"; }
check skopeo "docs: images carried over the gap keep their digest" carry
stop entrepot KILL
start_entrepot
check skopeo "after kill -9: the cached index" pull library/multi:1 "$INDEX_DIGEST"
check skopeo "after kill -9: the pushed image" pull team/app:1 "$PRIVATE_DIGEST"
stop entrepot
check skopeo "docs: in CI" in_ci
finish
