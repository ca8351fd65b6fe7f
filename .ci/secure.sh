# shellcheck shell=bash
# shellcheck disable=SC2034 # SECURE_NAME is read by the suites that source this file
#
# Sourced after registries.sh by the suites over TLS: certificates of clients, and a dockerd that finds them.

# Docker believes anybody on 127.0.0.0/8, whatever the name; it gets a name and IPv6.
SECURE_NAME=registry.test

# client_certificate NAME DIRECTORY [AUTHORITY]: one folder as docker, podman and skopeo want it: ca.crt, client.cert and client.key,
# whose subject is NAME. AUTHORITY is where the ca.crt and ca.key lie that sign it, if that is not $WORK/tls.
client_certificate() {
    local name=$1 directory=$2 authority=${3:-$WORK/tls}
    mkdir -p "$directory"
    cp "$WORK/tls/ca.crt" "$directory/ca.crt"
    openssl ecparam -name prime256v1 -genkey -noout -out "$directory/client.key"
    openssl req -new -key "$directory/client.key" -subj "/CN=$name" -out "$WORK/client.csr"
    openssl x509 -req -in "$WORK/client.csr" -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -CAcreateserial -days 1 \
        -extfile <(echo extendedKeyUsage=clientAuth) -out "$directory/client.cert" 2>"$WORK/openssl.log"
}

# hosts_toml DIRECTORY HOST ADDRESS CERTIFICATES: what containerd has to know of HOST, which is at ADDRESS. The folder's client
# certificate is shown if it has one.
hosts_toml() {
    mkdir -p "$1/$2"
    {
        printf '[host."https://%s"]\n  ca = "%s/ca.crt"\n' "$3" "$4"
        [ ! -e "$4/client.cert" ] || printf '  client = [["%s/client.cert", "%s/client.key"]]\n' "$4" "$4"
    } >"$1/$2/hosts.toml"
}

# start_secure_dockerd REGISTRY CERTIFICATES: with a mirror there. dockerd reads /etc/docker/certs.d, which is
# $WORK/etc/certs.d to it and to nobody else, and knows $SECURE_NAME as ::1.
start_secure_dockerd() {
    local key='{}'
    export WORK
    docker_shows "$1" "$2"
    printf '127.0.0.1 localhost\n::1 %s\n' "$SECURE_NAME" >"$WORK/hosts.etc"
    if dockerd --version | grep -q 'version 20\.'; then
        key=$(jq -n --arg path "$WORK/key.json" '{"deprecated-key-path": $path}')
    fi
    jq --argjson key "$key" -n --arg mirror "https://$1" '{"registry-mirrors": [$mirror]} + $key' >"$WORK/daemon.json"
    # shellcheck disable=SC2016 # expanded by the inner shell
    start dockerd unshare --mount --propagation private sh -c '
        mount --bind "$WORK/hosts.etc" /etc/hosts && mount --bind "$WORK/etc" /etc/docker && exec "$@"' dockerd \
        dockerd --config-file "$WORK/daemon.json" --storage-driver vfs --data-root "$WORK/docker" \
        --exec-root "$WORK/docker-exec" --pidfile "$WORK/docker.pid" --host "unix://$WORK/docker.sock" \
        --containerd "$WORK/containerd.sock" --iptables=false --ip6tables=false --bridge=none
    wait_for dockerd docker version
}

# docker_shows REGISTRY CERTIFICATES: from now on dockerd has what lies in that folder for that registry.
docker_shows() {
    local folder=$WORK/etc/certs.d/$1
    mkdir -p "$folder"
    rm -f "$folder"/*
    cp "$2"/* "$folder/"
}
