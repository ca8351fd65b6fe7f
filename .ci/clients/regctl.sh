#!/usr/bin/env bash
# regctl: chunked push (several PATCHes with Content-Range), artifacts with a subject, referrers, tags.

. "$(dirname "$0")/../registries.sh"
need regctl

find_regctl || {
    finish
    exit 0
}

push_in_chunks() {
    regctl image copy "ocidir://$LAYOUT:multi" "$REGISTRY/team/chunked:1"
    same "$(regctl manifest head "$REGISTRY/team/chunked:1")" "$INDEX_DIGEST"
}

blobs_are_whole() {
    local digest
    for digest in $(regctl manifest get --format '{{range .Layers}}{{.Digest}} {{end}}' "$REGISTRY/team/chunked@$AMD64_DIGEST"); do
        same "sha256:$(regctl blob get "$REGISTRY/team/chunked" "$digest" | sha256sum | cut -d' ' -f1)" "$digest"
    done
}

put_artifact() {
    echo '{"bom": true}' >"$WORK/bom.json"
    regctl artifact put --artifact-type application/vnd.example.bom --subject "$REGISTRY/team/chunked:1" \
        --file "$WORK/bom.json" --file-media-type application/json
    same "$(regctl artifact list --format '{{range .Descriptors}}{{.ArtifactType}}{{end}}' "$REGISTRY/team/chunked:1")" \
        application/vnd.example.bom
    same "$(regctl artifact get --subject "$REGISTRY/team/chunked:1" --filter-artifact-type application/vnd.example.bom)" '{"bom": true}'
}

referrers_need_no_fallback_tag() {
    same "$(curl -fsS "http://$REGISTRY/v2/team/chunked/referrers/$INDEX_DIGEST" | jq '.manifests | length')" 1
    same "$(regctl tag ls "$REGISTRY/team/chunked")" 1
}

remove_tag() {
    regctl image copy "$REGISTRY/team/chunked:1" "$REGISTRY/team/chunked:2"
    regctl tag rm "$REGISTRY/team/chunked:2"
    same "$(regctl tag ls "$REGISTRY/team/chunked")" 1
    same "$(regctl manifest head "$REGISTRY/team/chunked:1")" "$INDEX_DIGEST"
}

make_origin
make_entrepot
regctl registry set --tls disabled --blob-chunk 1000000 --blob-max 1000000 --skip-check "$REGISTRY"
check regctl "push in chunks of 1 MB" push_in_chunks
check regctl "the chunked blobs are whole" blobs_are_whole
check regctl "artifact with a subject: put, list, get" put_artifact
check regctl "referrers come from the API, without a fallback tag" referrers_need_no_fallback_tag
check regctl "copy to a second tag, then remove that tag" remove_tag
finish
