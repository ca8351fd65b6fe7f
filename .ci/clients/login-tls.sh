#!/usr/bin/env bash
# Signing in over TLS: what login.sh does with docker, podman, skopeo and ctr, each of which knows the authority of `entrepot setup
# tls`; and each of them as who its client certificate says, with a certificate that may nothing, and with a stranger's.

. "$(dirname "$0")/../registries.sh"
need login-tls dockerd docker containerd ctr podman curl openssl unshare
need_root login-tls
. "$(dirname "$0")/../logins.sh"
. "$(dirname "$0")/../secure.sh"

REFUSED='401|403|unauthorized|authentication|authorization|log in|denied|may not|forbidden'

# shows CERTIFICATES: podman, skopeo and ctr have what lies in that folder from here on, within the calling check.
shows() {
    FLAGS=(--cert-dir "$1")
    COPY_FLAGS=(--src-cert-dir "$1" --dest-cert-dir "$1")
    hosts_toml "$WORK/hosts-$(basename "$1")" "$REGISTRY" "$REGISTRY" "$1"
    CTR_FLAGS=(--hosts-dir "$WORK/hosts-$(basename "$1")")
}

make_certificates() {
    make_tls "$SECURE_NAME"
    TLS="{certificate: $WORK/tls/server.crt, key: $WORK/tls/server.key, client_ca: $WORK/tls/ca.crt, client_certificates: request}"
    client_certificate node-1 "$WORK/node"
    client_certificate guest-1 "$WORK/guest"
    "$ENTREPOT" setup tls --self-signed --host "$SECURE_NAME" --out "$WORK/elsewhere" >>"$WORK/setup.log"
    client_certificate node-1 "$WORK/stranger" "$WORK/elsewhere"
    mkdir -p "$WORK/nobody" "$WORK/blind"
    cp "$WORK/tls/ca.crt" "$WORK/nobody/"
    cp "$WORK/elsewhere/ca.crt" "$WORK/blind/"
}

# Who does not know the authority sends no password.
blind_session() {
    shows "$WORK/blind"
    refused 'certificate signed by unknown authority|x509' podman login --authfile "$WORK/blind.json" "${FLAGS[@]}" -u alice -p "$PASSWORD" "$REGISTRY"
    refused 'certificate signed by unknown authority|x509' with_skopeo --src-creds "alice:$PASSWORD" "docker://$REGISTRY/team/skopeo:1" "oci:$WORK/none:1"
    refused 'certificate signed by unknown authority|x509' ctr images pull "${CTR_FLAGS[@]}" -u "alice:$PASSWORD" "$REGISTRY/team/skopeo:1"
}

skopeo_certificate() {
    shows "$WORK/node"
    with_skopeo "oci:$LAYOUT:private" "docker://$REGISTRY/nodes/skopeo:1"
    rm -rf "$WORK/pulled"
    with_skopeo "docker://$REGISTRY/nodes/skopeo:1" "oci:$WORK/pulled:1"
    layout_is "$WORK/pulled" "$PRIVATE_DIGEST"
    refused "$REFUSED" skopeo delete "${FLAGS[@]}" "docker://$REGISTRY/nodes/skopeo:1"
    refused "$REFUSED" with_skopeo "oci:$LAYOUT:private" "docker://$REGISTRY/team/node:1"
    # A password comes before the certificate, and a wrong one is not overlooked.
    with_skopeo --dest-creds "alice:$PASSWORD" "oci:$LAYOUT:private" "docker://$REGISTRY/team/both:1"
    refused "$REFUSED" with_skopeo --src-creds alice:guess "docker://$REGISTRY/nodes/skopeo:1" "oci:$WORK/none:1"
    shows "$WORK/guest"
    refused "$REFUSED" with_skopeo "docker://$REGISTRY/nodes/skopeo:1" "oci:$WORK/none:1"
    refused "$REFUSED" with_skopeo "oci:$LAYOUT:private" "docker://$REGISTRY/nodes/guest:1"
    shows "$WORK/stranger"
    refused 'certificate|tls' with_skopeo "docker://$REGISTRY/open/multi:1" "oci:$WORK/none:1"
}

podman_certificate() {
    shows "$WORK/node"
    podman pull "${FLAGS[@]}" "docker://$REGISTRY/nodes/skopeo:1"
    podman push "${FLAGS[@]}" "$REGISTRY/nodes/skopeo:1" "docker://$REGISTRY/nodes/podman:1"
    shows "$WORK/guest"
    podman pull "${FLAGS[@]}" "docker://$REGISTRY/open/multi:1"
    refused "$REFUSED" podman pull "${FLAGS[@]}" "docker://$REGISTRY/nodes/podman:1"
    refused "$REFUSED" podman push "${FLAGS[@]}" "$REGISTRY/nodes/skopeo:1" "docker://$REGISTRY/nodes/guest:1"
    shows "$WORK/stranger"
    refused 'certificate|tls' podman pull "${FLAGS[@]}" "docker://$REGISTRY/nodes/podman:1"
}

containerd_certificate() {
    shows "$WORK/node"
    ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/nodes/skopeo:1"
    ctr images push "${CTR_FLAGS[@]}" "$REGISTRY/nodes/containerd:1" "$REGISTRY/nodes/skopeo:1"
    ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/nodes/containerd:1"
    refused "$REFUSED" ctr images push "${CTR_FLAGS[@]}" "$REGISTRY/team/node:1" "$REGISTRY/nodes/skopeo:1"
    shows "$WORK/guest"
    ctr images pull "${CTR_FLAGS[@]}" --all-platforms "$REGISTRY/open/multi:1"
    refused "$REFUSED" ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/nodes/containerd:1"
    refused "$REFUSED" ctr images push "${CTR_FLAGS[@]}" "$REGISTRY/nodes/guest:1" "$REGISTRY/nodes/skopeo:1"
    shows "$WORK/nobody"
    refused "$REFUSED" ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/nodes/containerd:1"
    shows "$WORK/stranger"
    refused 'certificate|tls' ctr images pull "${CTR_FLAGS[@]}" "$REGISTRY/nodes/containerd:1"
}

docker_certificate() {
    echo '{}' >"$DOCKER_CONFIG/config.json"
    docker_shows "$REGISTRY" "$WORK/node"
    docker pull "$REGISTRY/nodes/skopeo:1"
    docker tag "$REGISTRY/nodes/skopeo:1" "$REGISTRY/nodes/docker:1"
    docker push "$REGISTRY/nodes/docker:1"
    docker_shows "$REGISTRY" "$WORK/guest"
    docker pull "$REGISTRY/open/multi:1"
    refused "$REFUSED" docker pull "$REGISTRY/nodes/docker:1"
    docker tag "$REGISTRY/nodes/skopeo:1" "$REGISTRY/nodes/guest:1"
    refused "$REFUSED" docker push "$REGISTRY/nodes/guest:1"
    docker_shows "$REGISTRY" "$WORK/stranger"
    refused 'certificate|tls' docker pull "$REGISTRY/open/multi:1"
    docker_shows "$REGISTRY" "$WORK/nobody"
}

# Neither the password's own bytes nor what Basic authentication makes of them.
log_is_clean() {
    if grep -e "$PASSWORD" -e "$(printf 'alice:%s' "$PASSWORD" | base64)" "$WORK/entrepot.log"; then return 1; fi
    grep -c '"user:alice"' "$WORK/entrepot.log"
}

make_origin
make_certificates
{ hashed alice; hashed bob; } >"$WORK/htpasswd"
AUTH="{htpasswd: $WORK/htpasswd, anonymous: pull, certificates: common_name, groups: {team: [alice, carol]}, rules: [
  {repositories: [\"team/**\"], identities: [\"group:team\"], allow: [pull, push, delete]},
  {repositories: [\"nodes/**\"], identities: [\"cert:node-*\"], allow: [pull, push]}]}"
make_entrepot
shows "$WORK/nobody"
with_skopeo --all --dest-creds "bob:$PASSWORD" "oci:$LAYOUT:multi" "docker://$REGISTRY/open/multi:1"
start_containerd
check login-tls "podman login, push, pull, logout" podman_session
check login-tls "skopeo --creds: push, pull, mount, delete, wrong password, somebody else" skopeo_session
check login-tls "ctr -u: pull, push, wrong password, anonymous pull" ctr_session
check login-tls "podman, skopeo, ctr: no password for who is not known" blind_session
check login-tls "skopeo by its certificate, by one that may nothing, by a stranger's" skopeo_certificate
check login-tls "podman by its certificate, by one that may nothing, by a stranger's" podman_certificate
check login-tls "containerd by its certificate, by one that may nothing, by none, by a stranger's" containerd_certificate
check login-tls "a robot, until it is revoked" robot_session
check login-tls "a new user counts after SIGHUP" reload
stop entrepot KILL
start_entrepot
check login-tls "after kill -9: skopeo --creds" skopeo_session
stop entrepot
ADDRESS='[::1]'
make_entrepot
REGISTRY=$SECURE_NAME:${REGISTRY##*:}
start_secure_dockerd "$REGISTRY" "$WORK/nobody"
wrong_docker_login() { refused 'unauthorized|wrong' docker login --username alice --password guess "$REGISTRY"; }
blind_docker_login() {
    docker_shows "$REGISTRY" "$WORK/blind"
    refused 'certificate signed by unknown authority|x509' docker login --username alice --password "$PASSWORD" "$REGISTRY"
    docker_shows "$REGISTRY" "$WORK/nobody"
}
check login-tls "docker: no password for who is not known" blind_docker_login
check login-tls "docker: a wrong password is refused" wrong_docker_login
check login-tls "docker login keeps no password" docker_login
check login-tls "docker push and pull" docker_push_and_pull
check login-tls "docker logout: anonymous pull, and nothing else" docker_logout
check login-tls "docker by its certificate, by one that may nothing, by a stranger's" docker_certificate
check login-tls "docker's mirror with credentials for Docker Hub" docker_mirror
check login-tls "no password in the log" log_is_clean
finish
