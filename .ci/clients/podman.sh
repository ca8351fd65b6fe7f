#!/usr/bin/env bash
# podman: pull by a mirror in registries.conf, push to the address of entrepot.

. "$(dirname "$0")/../registries.sh"
need podman podman
need_root podman

podman() {
    command podman --root "$WORK/podman" --runroot "$WORK/podman-run" --tmpdir "$WORK/podman-tmp" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend none "$@"
}
export -f podman
export WORK HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home
mkdir -p "$HOME/.config/containers"
cp "$POLICY" "$HOME/.config/containers/policy.json"

pull() {
    podman rmi --all --force
    run_snippet podman-pull
    same "$(podman image inspect --format '{{index .RepoDigests 0}}' docker.io/library/multi:1 | cut -d@ -f2)" "$1"
}

# podman compresses the layers anew on their way, so the digest of what was pushed is its own.
push() {
    run_snippet podman-push
    manifest "$REGISTRY" team/podman 1 | jq -e '.layers | length == 3'
    podman rmi --all --force
    podman pull --tls-verify=false "docker://$REGISTRY/team/podman:1"
}

search() {
    same "$(podman search --tls-verify=false --list-tags --format json "$REGISTRY/team/podman" | jq -c '.[0].Tags')" '["1"]'
}

make_origin
make_entrepot
setup podman
cp "$WORK/root/etc/containers/registries.conf.d/50-entrepot.conf" "$CONTAINERS_REGISTRIES_CONF"
# The first RepoDigest is that of the index or of the platform's manifest, depending on the version; both were pulled.
check podman "cold pull through the mirror" pull "$INDEX_DIGEST"
stop origin
check podman "warm pull with the origin stopped" pull "$INDEX_DIGEST"
check podman "push, and pull of what was pushed" push
check podman "search --list-tags" search
finish
