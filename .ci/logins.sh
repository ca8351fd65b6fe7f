# shellcheck shell=bash
#
# Sourced after registries.sh by the suites about signing in: docker, podman, skopeo and ctr as user, as somebody else, with a
# wrong password, as nobody and as a robot. A suite over TLS sets other flags and another $SCHEME.

export WORK DOCKER_CONFIG=$WORK/docker-config HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home CONTAINERD_SNAPSHOTTER=native
mkdir -p "$HOME/.config/containers" "$DOCKER_CONFIG"
cp "$POLICY" "$HOME/.config/containers/policy.json"
# Podman reads it too.
echo '{}' >"$DOCKER_CONFIG/config.json"
PASSWORD="correct horse"
# How podman, skopeo and ctr get to $REGISTRY; a suite over TLS sets others.
FLAGS=(--tls-verify=false)
COPY_FLAGS=(--src-tls-verify=false --dest-tls-verify=false)
CTR_FLAGS=(--plain-http)

docker() {
    command docker --host "unix://$WORK/docker.sock" "$@"
}
podman() {
    command podman --root "$WORK/podman" --runroot "$WORK/podman-run" --tmpdir "$WORK/podman-tmp" --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend none "$@"
}
ctr() {
    command ctr --address "$WORK/containerd.sock" --namespace ci "$@"
}
with_skopeo() {
    skopeo --policy "$POLICY" --insecure-policy copy --quiet "${COPY_FLAGS[@]}" "$@"
}

# refused TEXT COMMAND…: the command fails, and says so.
refused() {
    local said text=$1
    shift
    if said=$("$@" 2>&1); then
        echo "it was let in: $said"
        return 1
    fi
    grep -iE "$text" <<<"$said"
}

status() {
    curl -sS -o /dev/null -w '%{http_code}' "$@"
}

hashed() {
    printf '%s\n' "$PASSWORD" | "$ENTREPOT" hash-password --cost 4 "$1"
}

docker_login() {
    printf '%s' "$PASSWORD" | docker login --username alice --password-stdin "$REGISTRY"
    # What is kept is no password.
    if grep -q "$(printf 'alice:%s' "$PASSWORD" | base64)" "$DOCKER_CONFIG/config.json"; then return 1; fi
    jq -e --arg host "$REGISTRY" '.auths[$host].identitytoken | startswith("entrepot_refresh_")' "$DOCKER_CONFIG/config.json"
}

docker_push_and_pull() {
    bytes login $((1 << 20)) >"$WORK/private"
    tar -C "$WORK" -c private | docker import - "$REGISTRY/team/docker:1"
    docker push "$REGISTRY/team/docker:1"
    docker image rm "$REGISTRY/team/docker:1"
    docker pull "$REGISTRY/team/docker:1"
}

docker_logout() {
    docker logout "$REGISTRY"
    same "left: $(jq -c '.auths // {}' "$DOCKER_CONFIG/config.json")" 'left: {}'
    docker pull "$REGISTRY/open/multi:1"
    docker tag "$REGISTRY/open/multi:1" "$REGISTRY/open/anonymous:1"
    refused 'unauthorized|denied|log in' docker push "$REGISTRY/open/anonymous:1"
    refused 'unauthorized|denied|log in' docker pull "$REGISTRY/team/docker:1"
    refused 'unauthorized|denied|log in' docker push "$REGISTRY/team/docker:1"
}

docker_mirror() {
    local id
    for id in $(docker image ls --quiet | sort -u); do docker image rm --force "$id"; done
    # Credentials for Docker Hub, which the daemon shows its mirror.
    jq -n --arg auth "$(printf 'me:hub' | base64)" '{auths: {"https://index.docker.io/v1/": {auth: $auth}}}' \
        >"$DOCKER_CONFIG/config.json"
    docker pull library/multi:1
}

podman_session() {
    local file=$WORK/podman-auth.json
    refused 'invalid username/password|unauthorized|wrong' podman login --authfile "$file" "${FLAGS[@]}" -u alice -p guess "$REGISTRY"
    podman login --authfile "$file" "${FLAGS[@]}" -u alice -p "$PASSWORD" "$REGISTRY"
    with_skopeo --dest-authfile "$file" "oci:$LAYOUT:private" "docker://$REGISTRY/team/podman:1"
    podman pull --authfile "$file" "${FLAGS[@]}" "docker://$REGISTRY/team/podman:1"
    podman push --authfile "$file" "${FLAGS[@]}" "$REGISTRY/team/podman:1" "docker://$REGISTRY/team/podman:2"
    podman logout --authfile "$file" "$REGISTRY"
    same "left: $(jq -c '.auths // {}' "$file")" 'left: {}'
    refused 'unauthorized|authentication|log in|denied' podman pull --authfile "$file" "${FLAGS[@]}" "docker://$REGISTRY/team/podman:2"
    podman pull "${FLAGS[@]}" "docker://$REGISTRY/open/multi:1"
    refused 'unauthorized|authentication|log in|denied' podman push "${FLAGS[@]}" "$REGISTRY/open/multi:1" "docker://$REGISTRY/open/anonymous:1"
}

skopeo_session() {
    with_skopeo --dest-creds "alice:$PASSWORD" "oci:$LAYOUT:private" "docker://$REGISTRY/team/skopeo:1"
    rm -rf "$WORK/pulled"
    with_skopeo --src-creds "alice:$PASSWORD" "docker://$REGISTRY/team/skopeo:1" "oci:$WORK/pulled:1"
    with_skopeo --all --src-creds "alice:$PASSWORD" --dest-creds "alice:$PASSWORD" \
        "docker://$REGISTRY/team/skopeo:1" "docker://$REGISTRY/team/mounted:1"
    refused 'unauthorized|authentication|wrong' with_skopeo --dest-creds alice:guess "oci:$LAYOUT:private" "docker://$REGISTRY/team/skopeo:2"
    refused 'denied|may not|403|forbidden' with_skopeo --dest-creds "bob:$PASSWORD" "oci:$LAYOUT:private" "docker://$REGISTRY/team/skopeo:2"
    refused 'unauthorized|authentication|log in|denied' with_skopeo "docker://$REGISTRY/team/skopeo:1" "oci:$WORK/none:1"
    refused 'unauthorized|authentication|log in|denied' with_skopeo "oci:$LAYOUT:private" "docker://$REGISTRY/open/anonymous:1"
    skopeo delete "${FLAGS[@]}" --creds "alice:$PASSWORD" "docker://$REGISTRY/team/mounted:1"
}

ctr_session() {
    ctr content fetch "${CTR_FLAGS[@]}" -u "alice:$PASSWORD" "$REGISTRY/team/skopeo:1"
    ctr images pull "${CTR_FLAGS[@]}" -u "alice:$PASSWORD" "$REGISTRY/team/skopeo:1"
    ctr images push "${CTR_FLAGS[@]}" -u "alice:$PASSWORD" "$REGISTRY/team/ctr:1" "$REGISTRY/team/skopeo:1"
    refused '401|unauthorized|authorization|denied' ctr images pull "${CTR_FLAGS[@]}" -u alice:guess "$REGISTRY/team/ctr:1"
    refused '401|unauthorized|authorization|denied' ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/team/ctr:1"
    ctr images pull "${CTR_FLAGS[@]}" --all-platforms "$REGISTRY/open/multi:1"
    refused '401|unauthorized|authorization|denied' ctr images push "${CTR_FLAGS[@]}" "$REGISTRY/open/anonymous:1" "$REGISTRY/open/multi:1"
}

robot_session() {
    local made user token
    made=$("$ENTREPOT" robot --config "$WORK/config.yaml" create ci --allow pull,push --repositories 'team/robot' --expires 1h --json)
    user=$(jq -r .username <<<"$made")
    token=$(jq -r .token <<<"$made")
    with_skopeo --dest-creds "$user:$token" "oci:$LAYOUT:private" "docker://$REGISTRY/team/robot:1"
    refused 'denied|may not|403|forbidden' with_skopeo --dest-creds "$user:$token" "oci:$LAYOUT:private" "docker://$REGISTRY/team/other:1"
    "$ENTREPOT" robot --config "$WORK/config.yaml" list | grep '^ci '
    "$ENTREPOT" robot --config "$WORK/config.yaml" revoke ci
    refused 'unauthorized|authentication|wrong' with_skopeo --src-creds "$user:$token" "docker://$REGISTRY/team/robot:1" "oci:$WORK/none:1"
}

# Rules and users are read again while serving.
reload() {
    printf '%s\n' "$(hashed carol)" >>"$WORK/htpasswd"
    kill -HUP "${PIDS[entrepot]}"
    local n
    for n in $(seq 100); do
        [ "$(status -u "carol:$PASSWORD" "$SCHEME://$REGISTRY/v2/")" != 200 ] || return 0
        sleep 0.1
    done
    return 1
}
