#!/usr/bin/env bash
# Signing in: docker, podman, skopeo and ctr with users, tokens, anonymous pulls, wrong passwords and robots. `login-tls.sh` has
# the same over TLS.

. "$(dirname "$0")/../registries.sh"
need login dockerd docker containerd ctr podman curl
need_root login
. "$(dirname "$0")/../logins.sh"

start_dockerd() {
    printf '{"insecure-registries": ["%s"], "registry-mirrors": ["http://%s"]}\n' "$REGISTRY" "$REGISTRY" >"$WORK/daemon.json"
    if dockerd --version | grep -q 'version 20\.'; then
        jq --arg path "$WORK/key.json" '. + {"deprecated-key-path": $path}' "$WORK/daemon.json" >"$WORK/daemon.tmp"
        mv "$WORK/daemon.tmp" "$WORK/daemon.json"
    fi
    start dockerd dockerd --config-file "$WORK/daemon.json" --storage-driver "$1" \
        --data-root "$WORK/docker" --exec-root "$WORK/docker-exec" --pidfile "$WORK/docker.pid" \
        --host "unix://$WORK/docker.sock" --containerd "$WORK/containerd.sock" --iptables=false --ip6tables=false --bridge=none
    wait_for dockerd docker version
}

make_origin
{ hashed alice; hashed bob; } >"$WORK/htpasswd"
AUTH="{htpasswd: $WORK/htpasswd, anonymous: pull, groups: {team: [alice, carol]}, rules: [{repositories: [\"team/**\"], identities: [\"group:team\"], allow: [pull, push, delete]}]}"
make_entrepot
with_skopeo --all --dest-creds "bob:$PASSWORD" "oci:$LAYOUT:multi" "docker://$REGISTRY/open/multi:1"
start_containerd
start_dockerd overlay2 || { stop dockerd; start_dockerd vfs; }
wrong_docker_login() { refused 'unauthorized|wrong' docker login --username alice --password guess "$REGISTRY"; }
check login "docker: a wrong password is refused" wrong_docker_login
check login "docker login keeps no password" docker_login
check login "docker push and pull" docker_push_and_pull
check login "docker logout: anonymous pull, and nothing else" docker_logout
check login "docker's mirror with credentials for Docker Hub" docker_mirror
check login "podman login, push, pull, logout" podman_session
check login "skopeo --creds: push, pull, mount, delete, wrong password, somebody else" skopeo_session
check login "ctr -u: pull, push, wrong password, anonymous pull" ctr_session
check login "a robot, until it is revoked" robot_session
check login "a new user counts after SIGHUP" reload
stop entrepot KILL
start_entrepot
check login "after kill -9: skopeo --creds" skopeo_session
finish
