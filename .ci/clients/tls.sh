#!/usr/bin/env bash
# Real clients over TLS, each with the authority of `entrepot setup tls` and a certificate of its own: pull through the mirror,
# push, pull of what was pushed; and each of them refused without.

. "$(dirname "$0")/../registries.sh"
need curl curl openssl
need skopeo skopeo
need podman podman
need docker dockerd docker containerd ctr unshare
need_root docker
. "$(dirname "$0")/../secure.sh"

NAME=$SECURE_NAME
export WORK NAME HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/home DOCKER_CONFIG=$WORK/docker-config
mkdir -p "$HOME/.config/containers" "$DOCKER_CONFIG"
echo '{}' >"$DOCKER_CONFIG/config.json"
cp "$POLICY" "$HOME/.config/containers/policy.json"
POD=(command podman --root "$WORK/podman" --runroot "$WORK/podman-run" --tmpdir "$WORK/podman-tmp" --storage-driver vfs
    --cgroup-manager cgroupfs --events-backend none)
docker() {
    command docker --host "unix://$WORK/docker.sock" "$@"
}
ctr() {
    command ctr --address "$WORK/containerd.sock" --namespace ci "$@"
}
export -f docker ctr
export CONTAINERD_SNAPSHOTTER=native

make_certificates() {
    "$ENTREPOT" setup tls --self-signed --host "$NAME" --out "$WORK/tls" >"$WORK/setup.log"
    CERTS=$WORK/certs
    client_certificate robot "$CERTS"
    mkdir -p "$WORK/stranger"
    cp "$WORK/tls/ca.crt" "$WORK/stranger/ca.crt"
}

# make_secure_entrepot LOOPBACK
make_secure_entrepot() {
    PORT=$(free_port)
    REGISTRY=$NAME:$PORT
    LOCAL=$1:$PORT
    cat >"$WORK/config.yaml" <<END
http:
  listen: "$LOCAL"
  tls: {certificate: $WORK/tls/server.crt, key: $WORK/tls/server.key, client_ca: $WORK/tls/ca.crt, client_certificates: require}
storage: {path: $WORK/store, min_free: 0, max_size: 8GiB}
cache: {max_size: 4GiB, revalidate_after: 1s}
upstreams: {docker.io: {url: "http://$ORIGIN", default: true}}
log: {format: json}
END
    start entrepot "$ENTREPOT" serve --config "$WORK/config.yaml"
    wait_for entrepot curl_it /readyz
    export PORT REGISTRY LOCAL CERTS
}

curl_it() {
    curl -fsS --cacert "$CERTS/ca.crt" --cert "$CERTS/client.cert" --key "$CERTS/client.key" "https://$LOCAL$1"
}

curl_speaks_both() {
    local version
    for version in --http1.1 --http2; do
        curl -fsS "$version" --cacert "$CERTS/ca.crt" --cert "$CERTS/client.cert" --key "$CERTS/client.key" \
            -o "$WORK/manifest.out" -w '%{http_version}\n' "https://$LOCAL/v2/library/multi/manifests/1"
        same "$(sha256sum "$WORK/manifest.out" | cut -d' ' -f1)" "${INDEX_DIGEST#sha256:}"
    done
}

curl_without() {
    local said
    if said=$(curl -sS --cacert "$CERTS/ca.crt" "https://$LOCAL/v2/" 2>&1); then return 1; fi
    grep -i certificate <<<"$said"
    if said=$(curl -sS --tlsv1.1 --tls-max 1.1 --ciphers 'DEFAULT@SECLEVEL=0' --cacert "$CERTS/ca.crt" "https://$LOCAL/v2/" 2>&1); then
        return 1
    fi
    grep -i 'protocol\|version\|handshake' <<<"$said" || { echo "$said"; return 1; }
    curl -sS "http://$LOCAL/v2/" | grep 'speaks TLS'
}

# SKOPEO: its own policy, and the certificates on the side of entrepot.
skopeo_through() {
    rm -rf "$WORK/pulled" "$WORK/again"
    skopeo --policy "$POLICY" copy --all --src-cert-dir "$CERTS" "docker://$LOCAL/library/multi:1" "oci:$WORK/pulled:multi"
    same "$(jq -r '.manifests[0].digest' "$WORK/pulled/index.json")" "$INDEX_DIGEST"
    skopeo --policy "$POLICY" copy --all --dest-cert-dir "$CERTS" "oci:$LAYOUT:private" "docker://$LOCAL/team/skopeo:1"
    skopeo --policy "$POLICY" copy --src-cert-dir "$CERTS" "docker://$LOCAL/team/skopeo:1" "oci:$WORK/again:private"
    same "$(jq -r '.manifests[0].digest' "$WORK/again/index.json")" "$PRIVATE_DIGEST"
}

skopeo_without() {
    if skopeo inspect --cert-dir "$WORK/stranger" "docker://$LOCAL/library/multi:1"; then return 1; fi
}

podman_through() {
    "${POD[@]}" pull --cert-dir "$CERTS" "docker://$LOCAL/library/multi:1"
    "${POD[@]}" push --cert-dir "$CERTS" "$LOCAL/library/multi:1" "docker://$LOCAL/team/podman:1"
    "${POD[@]}" rmi --all --force
    "${POD[@]}" pull --cert-dir "$CERTS" "docker://$LOCAL/team/podman:1"
}

containerd_hosts() {
    local host
    for host in docker.io "$LOCAL"; do hosts_toml "$WORK/hosts" "$host" "$LOCAL" "$CERTS"; done
}

containerd_through() {
    ctr images pull --hosts-dir "$WORK/hosts" docker.io/library/multi:1
    same "$(ctr images ls | awk '$1 == "docker.io/library/multi:1" { print $3 }')" "$INDEX_DIGEST"
    ctr images pull --hosts-dir "$WORK/hosts" docker.io/library/schema2:1
    ctr images push --hosts-dir "$WORK/hosts" "$LOCAL/team/containerd:1" docker.io/library/schema2:1
    ctr images rm --sync docker.io/library/schema2:1
    ctr images pull --hosts-dir "$WORK/hosts" "$LOCAL/team/containerd:1"
}

docker_through() {
    docker pull library/multi:1
    same "$(docker image inspect --format '{{index .RepoDigests 0}}' multi:1 | cut -d@ -f2)" "$INDEX_DIGEST"
    docker tag multi:1 "$REGISTRY/team/docker:1"
    docker push "$REGISTRY/team/docker:1"
    docker image rm --force multi:1 "$REGISTRY/team/docker:1"
    docker pull "$REGISTRY/team/docker:1"
}

docker_without() {
    docker_shows "$REGISTRY" "$WORK/stranger"
    if docker pull "$REGISTRY/team/docker:absent" 2>"$WORK/docker.err"; then return 1; fi
    grep -i 'certificate' "$WORK/docker.err" || { cat "$WORK/docker.err"; return 1; }
}

serial() {
    openssl s_client -connect "$LOCAL" -cert "$CERTS/client.cert" -key "$CERTS/client.key" </dev/null 2>/dev/null |
        openssl x509 -noout -serial
}

# A new certificate of the same authority, while everything runs.
renewed() {
    local before after=
    before=$(serial)
    rm "$WORK/tls/server.crt" "$WORK/tls/server.key"
    "$ENTREPOT" setup tls --self-signed --host "$NAME" --out "$WORK/tls"
    kill -HUP "${PIDS[entrepot]}"
    for _ in $(seq 50); do
        after=$(serial)
        [ "$after" = "$before" ] || break
        sleep 0.1
    done
    [ -n "$after" ] && [ "$after" != "$before" ]
    curl_it /readyz | jq -e '.tls.problem == null'
}

make_origin
make_certificates
make_secure_entrepot 127.0.0.1
check curl "HTTP/1.1 and HTTP/2 with a client certificate" curl_speaks_both
check curl "without one, with TLS 1.1, without TLS: refused, and told why" curl_without
check skopeo "pull, push and pull with --cert-dir" skopeo_through
check skopeo "without a client certificate: refused" skopeo_without
check podman "pull, push and pull with --cert-dir" podman_through
start_containerd
containerd_hosts
check containerd "pull, push and pull with ca and client in hosts.toml" containerd_through
check entrepot "a renewed certificate is taken on SIGHUP" renewed
stop entrepot
make_secure_entrepot "[::1]"
start_secure_dockerd "$REGISTRY" "$CERTS"
check docker "pull through the mirror, push and pull with certs.d" docker_through
check docker "without a client certificate: refused, and told why" docker_without
finish
