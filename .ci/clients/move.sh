#!/usr/bin/env bash
# Images over a gap: what entrepot exports skopeo reads, what skopeo writes entrepot imports, and a mirror without a network
# serves what another one exported.

. "$(dirname "$0")/../registries.sh"
need skopeo

entrepot() {
    "$ENTREPOT" "$@" --config "$WORK/config.yaml"
}

# reads TRANSPORT:PATH: skopeo finds the image by its whole name there, and every digest stays.
reads() {
    copy --all "$1:docker.io/library/multi:1" "docker://$REGISTRY/$2:1"
    same "$(digest_of "$REGISTRY" "$2" 1)" "$INDEX_DIGEST"
}

export_directory() {
    entrepot export library/multi:1 --fetch --to "$WORK/out"
    reads "oci:$WORK/out" moved/directory
}

export_archive() {
    entrepot export library/multi:1 --to "$WORK/out.tar"
    reads "oci-archive:$WORK/out.tar" moved/archive
}

export_pipe() {
    entrepot export library/multi:1 --to - >"$WORK/pipe.tar"
    cmp "$WORK/pipe.tar" "$WORK/out.tar"
}

export_platform() {
    entrepot export library/multi:1 --platform linux/amd64 --to "$WORK/amd64"
    copy --override-arch amd64 --override-os linux "oci:$WORK/amd64:docker.io/library/multi:1" "docker://$REGISTRY/moved/amd64:1"
    same "$(digest_of "$REGISTRY" moved/amd64 1)" "$AMD64_DIGEST"
}

import_directory() {
    copy --all "oci:$LAYOUT:multi" "oci:$WORK/in:imported/multi:1"
    entrepot import "$WORK/in"
    same "$(digest_of "$REGISTRY" imported/multi 1)" "$INDEX_DIGEST"
}

import_archive() {
    copy --all "oci:$LAYOUT:multi" "oci-archive:$WORK/in.tar:imported/archive:1"
    entrepot import "$WORK/in.tar"
    same "$(digest_of "$REGISTRY" imported/archive 1)" "$INDEX_DIGEST"
    entrepot import - --to imported/piped <"$WORK/in.tar"
    same "$(digest_of "$REGISTRY" imported/piped 1)" "$INDEX_DIGEST"
}

import_bare_tag() {
    if entrepot import "$LAYOUT" 2>"$WORK/refusal"; then return 1; fi
    grep -q -- '--to NAME' "$WORK/refusal"
    entrepot import "$LAYOUT" --to imported/bare
    same "$(digest_of "$REGISTRY" imported/bare private)" "$PRIVATE_DIGEST"
}

# The other side has neither the origin nor the first store.
beyond_the_gap() {
    sed -i -e "s#path: $WORK/store#path: $WORK/beyond#" "$WORK/config.yaml"
    echo 'offline: true' >>"$WORK/config.yaml"
    entrepot import "$WORK/out.tar" --as-cached
}

pull() {
    rm -rf "$WORK/pulled"
    copy --all "docker://$REGISTRY/$1" "oci:$WORK/pulled:pulled"
    layout_is "$WORK/pulled" "$INDEX_DIGEST"
}

make_origin
make_entrepot

check move "export to a directory, read by skopeo under the whole name" export_directory
check move "export to an archive, read by skopeo" export_archive
check move "the archive through a pipe is the same" export_pipe
check move "export of one platform, copied on by skopeo" export_platform
check move "import of a directory that skopeo wrote" import_directory
check move "import of an archive that skopeo wrote, from a file and through a pipe" import_archive
check move "bare tags need a repository" import_bare_tag
carry() { (cd "$WORK" && PATH=$(dirname "$ENTREPOT"):$PATH run_snippet export); }
check move "docs: export for an air gap" carry
stop origin
stop entrepot
check move "import into a store that nobody serves" beyond_the_gap
start_entrepot
check move "pull beyond the gap by the upstream's short name" pull library/multi:1
check move "pull beyond the gap by the upstream's whole name" pull docker.io/library/multi:1
finish
