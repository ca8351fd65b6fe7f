#!/usr/bin/env bash
# A real dockerd with --registry-mirror: pull twice, push, kill -9 of entrepot, pull both again.

. "$(dirname "$0")/../registries.sh"
need docker dockerd docker containerd ctr
need_root docker

export WORK DOCKER_CONFIG=$WORK/docker-config
docker() {
    command docker --host "unix://$WORK/docker.sock" "$@"
}
export -f docker

start_dockerd() {
    setup docker
    cp "$WORK/root/etc/docker/daemon.json" "$WORK/daemon.json"
    # 20.10 writes a key below /etc/docker unless told otherwise; later versions refuse the setting.
    if dockerd --version | grep -q 'version 20\.'; then
        jq --arg path "$WORK/key.json" '. + {"deprecated-key-path": $path}' "$WORK/daemon.json" >"$WORK/daemon.tmp"
        mv "$WORK/daemon.tmp" "$WORK/daemon.json"
    fi
    start dockerd dockerd --config-file "$WORK/daemon.json" --storage-driver "$1" \
        --data-root "$WORK/docker" --exec-root "$WORK/docker-exec" --pidfile "$WORK/docker.pid" \
        --host "unix://$WORK/docker.sock" --containerd "$WORK/containerd.sock" --iptables=false --ip6tables=false --bridge=none
    wait_for dockerd docker version
}

forget() {
    local id
    for id in $(docker image ls --quiet | sort -u); do docker image rm --force "$id"; done
    same "none $(docker image ls --quiet)" "none "
}

pull() {
    forget
    run_snippet docker-pull
    same "$(docker image inspect --format '{{index .RepoDigests 0}}' multi:1 | cut -d@ -f2)" "$INDEX_DIGEST"
}

pull_schema2() {
    docker pull library/schema2:1
    same "$(docker image inspect --format '{{index .RepoDigests 0}}' schema2:1 | cut -d@ -f2)" "$SCHEMA2_DIGEST"
}

push() {
    bytes docker-private $((5 << 20)) >"$WORK/private"
    tar -C "$WORK" -c private | docker import - "$REGISTRY/team/app:1"
    run_snippet docker-push | tee "$WORK/push.out"
    # A layer that dockerd knows from a pull through the mirror is offered as a mount from there.
    docker tag multi:1 "$REGISTRY/team/multi:1"
    docker push "$REGISTRY/team/multi:1"
}

pull_private() {
    forget
    docker pull "$REGISTRY/team/app:1"
    docker pull "$REGISTRY/team/multi:1"
    same "$(docker image inspect --format '{{index .RepoDigests 0}}' "$REGISTRY/team/app:1" | cut -d@ -f2)" \
        "$(sed -n 's/.*digest: \(sha256:[0-9a-f]*\).*/\1/p' "$WORK/push.out")"
}

absent_tag_is_named() {
    local said
    if said=$(docker pull "$REGISTRY/team/app:absent" 2>&1); then return 1; fi
    grep -i 'manifest unknown\|not found' <<<"$said"
}

make_origin
make_entrepot
start_containerd
start_dockerd overlay2 || { stop dockerd; start_dockerd vfs; }
check docker "cold pull through --registry-mirror" pull
check docker "cold pull of a Docker schema 2 image" pull_schema2
stop origin
check docker "warm pull after rmi, with the origin stopped" pull
check docker "push of a private image and of a pulled one" push
check docker "pull of the pushed images" pull_private
check docker "an absent tag is reported as such" absent_tag_is_named
stop entrepot KILL
start_entrepot
check docker "after kill -9: the cached image" pull
check docker "after kill -9: the pushed images" pull_private
finish
