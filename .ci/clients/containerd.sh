#!/usr/bin/env bash
# A real containerd with a hosts.toml for docker.io: pull cold and warm, push, pull of what was pushed.

. "$(dirname "$0")/../registries.sh"
need containerd containerd ctr
need_root containerd

export WORK
ctr() {
    command ctr --address "$WORK/containerd.sock" --namespace ci "$@"
}
export -f ctr
# Content alone is what matters here, and needs no rights of the host: the native snapshotter copies files.
export CONTAINERD_SNAPSHOTTER=native

forget() {
    local name
    for name in $(ctr images ls -q); do ctr images rm --sync "$name"; done
    same "none $(ctr content ls -q)" "none "
}

image_digest() {
    ctr images ls | awk -v name="$1" '$1 == name { print $3 }'
}

pull() {
    forget
    run_snippet ctr-pull
    same "$(image_digest docker.io/library/multi:1)" "$INDEX_DIGEST"
    ctr images check name==docker.io/library/multi:1 | grep complete
}

pull_schema2() {
    ctr images pull --hosts-dir "$WORK/root/etc/containerd/certs.d" docker.io/library/schema2:1
    same "$(image_digest docker.io/library/schema2:1)" "$SCHEMA2_DIGEST"
}

push() {
    run_snippet ctr-push
    ctr images push --plain-http "$REGISTRY/team/schema2:1" docker.io/library/schema2:1
    same "$(digest_of "$REGISTRY" team/schema2 1)" "$SCHEMA2_DIGEST"
}

pull_pushed() {
    forget
    ctr images pull --plain-http "$REGISTRY/team/schema2:1"
    same "$(image_digest "$REGISTRY/team/schema2:1")" "$SCHEMA2_DIGEST"
}

make_origin
make_entrepot
start_containerd
setup containerd
check containerd "cold pull through hosts.toml" pull
check containerd "cold pull of a Docker schema 2 image" pull_schema2
check containerd "push over plain HTTP" push
stop origin
check containerd "warm pull with the origin stopped" pull
check containerd "pull of what was pushed" pull_pushed
stop entrepot KILL
start_entrepot
check containerd "after kill -9: the cached image" pull
check containerd "after kill -9: the pushed image" pull_pushed
finish
