#!/usr/bin/env bash
# Certificates by ACME, issued by Pebble (the test server of those who run Let's Encrypt) for a name whose proof it looks for here:
# the first one, by the key of an external account, where clients must show certificates of their own; then the next ones.
#
# Pebble and its DNS server are on the PATH, or are built from their Go module.

. "$(dirname "$0")/../lib.sh"

VERSION=v2.10.1
MODULE=github.com/letsencrypt/pebble/v2/cmd
NAME=registry.example.test
KEY=zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W
# A third of it is left when it is renewed.
LIFETIME_SECONDS=45
export WORK NAME

# find_pebble: puts both programs into PATH, built if they are not installed; false, loudly, if they are not to be had.
find_pebble() {
    local program
    for program in curl openssl jq; do
        command -v "$program" >/dev/null || { loud_skip "client acme" "$program is not installed"; return 1; }
    done
    command -v pebble >/dev/null && command -v pebble-challtestsrv >/dev/null && return 0
    if command -v go >/dev/null && GOBIN=$WORK/bin go install "$MODULE/pebble@$VERSION" "$MODULE/pebble-challtestsrv@$VERSION" \
        >"$WORK/go.log" 2>&1; then
        PATH=$WORK/bin:$PATH
        return 0
    fi
    loud_skip "client acme" "pebble is neither installed nor to be built: $(tail -n 1 "$WORK/go.log" 2>/dev/null || echo no go)"
    return 1
}

# make_pebble: a directory at https://localhost:$DIRECTORY_PORT/dir that believes nobody without a key of its own, refuses some
# nonces for no reason, and looks for proofs at entrepot's port.
make_pebble() {
    "$ENTREPOT" setup tls --self-signed --host localhost --out "$WORK/tls" >"$WORK/setup.log"
    DIRECTORY_PORT=$(free_port) MANAGEMENT_PORT=$(free_port) DNS_PORT=$(free_port) PORT=$(free_port)
    export DIRECTORY_PORT MANAGEMENT_PORT PORT LOCAL=127.0.0.1:$PORT
    jq -n --arg work "$WORK" --arg key "$KEY" --argjson lifetime "$LIFETIME_SECONDS" --argjson port "$PORT" \
        --arg listen "127.0.0.1:$DIRECTORY_PORT" --arg management "127.0.0.1:$MANAGEMENT_PORT" '{pebble: {
            listenAddress: $listen, managementListenAddress: $management,
            certificate: "\($work)/tls/server.crt", privateKey: "\($work)/tls/server.key",
            httpPort: 1, tlsPort: $port, retryAfter: {authz: 1, order: 1}, keyAlgorithm: "ecdsa",
            externalAccountBindingRequired: true, externalAccountMACKeys: {"ci": $key},
            profiles: {default: {description: "short", validityPeriod: $lifetime}}
        }}' >"$WORK/pebble.json"
    start dns pebble-challtestsrv -dnsserver "127.0.0.1:$DNS_PORT" -management "127.0.0.1:$(free_port)" \
        -defaultIPv4 127.0.0.1 -defaultIPv6 "" -http01 "" -https01 "" -tlsalpn01 "" -doh ""
    PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=10 start pebble \
        pebble -strict -config "$WORK/pebble.json" -dnsserver "127.0.0.1:$DNS_PORT"
    wait_for pebble curl -fsS --cacert "$WORK/tls/ca.crt" "https://localhost:$DIRECTORY_PORT/dir"
    curl -fsS --cacert "$WORK/tls/ca.crt" "https://localhost:$MANAGEMENT_PORT/roots/0" >"$WORK/root.pem"
}

# make_client: a certificate for curl, of the authority that entrepot asks clients for.
make_client() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$WORK/client.key"
    openssl req -new -key "$WORK/client.key" -subj /CN=robot -out "$WORK/client.csr"
    openssl x509 -req -in "$WORK/client.csr" -CA "$WORK/tls/ca.crt" -CAkey "$WORK/tls/ca.key" -CAcreateserial -days 1 \
        -extfile <(echo extendedKeyUsage=clientAuth) -out "$WORK/client.crt" 2>"$WORK/openssl.log"
}

# make_issued_entrepot CLIENTS [MORE]: entrepot with a certificate to be issued; CLIENTS must (require) or may (request) show
# theirs, MORE goes into `acme`.
make_issued_entrepot() {
    cat >"$WORK/config.yaml" <<END
http:
  listen: "$LOCAL"
  tls:
    acme: {directory: "https://localhost:$DIRECTORY_PORT/dir", domains: [$NAME], accept_terms: true, ca: $WORK/tls/ca.crt ${2:-}}
    client_ca: $WORK/tls/ca.crt
    client_certificates: $1
    reload_every: 1s
storage: {path: $WORK/store, min_free: 0, max_size: 1GiB}
upstreams: {}
log: {format: json}
END
    : >"$WORK/entrepot.log"
    start entrepot "$ENTREPOT" serve --config "$WORK/config.yaml"
    wait_for entrepot grep -q 'is serving' "$WORK/entrepot.log"
}

# curl_it PATH [OPTION…]: asks by the name of the certificate, and believes nobody but Pebble's authority.
curl_it() {
    local path=$1
    shift
    curl -fsS --cacert "$WORK/root.pem" --cert "$WORK/client.crt" --key "$WORK/client.key" \
        --resolve "$NAME:$PORT:127.0.0.1" "$@" "https://$NAME:$PORT$path"
}
export -f curl_it

# until_true SECONDS COMMAND…
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" 2>"$WORK/until.log"; do
        [ "$SECONDS" -lt "$deadline" ] || { cat "$WORK/until.log"; tail -n 3 "$WORK/entrepot.log"; return 1; }
        sleep 0.2
    done
}

strangers_are_refused() {
    until_true 30 grep -q externalAccountRequired "$WORK/entrepot.log"
    grep externalAccountRequired "$WORK/entrepot.log" | grep -q 'http.tls.acme.external_account'
    # There is no certificate, and whoever connects is told so.
    local said
    if said=$(curl -sS --cacert "$WORK/root.pem" "https://$LOCAL/" 2>&1); then return 1; fi
    grep -i 'access denied\|alert' <<<"$said"
}

first_certificate() {
    until_true 60 curl_it /readyz
    curl_it /readyz | jq -e '.tls.unissued == null and .tls.certificate_ends != null'
    curl_it /metrics | grep '^entrepot_acme_attempts_total{result="issued"} 1$'
    same "$(stat -c '%a' "$WORK"/store/acme/* | sort -u)" 600
    # The proof was given without a client certificate; nothing else is.
    if curl -fsS --cacert "$WORK/root.pem" --resolve "$NAME:$PORT:127.0.0.1" "https://$NAME:$PORT/v2/"; then return 1; fi
}

for_that_name() {
    openssl x509 -in "$WORK/store/acme/certificate.pem" -noout -ext subjectAltName | grep "DNS:$NAME"
    { openssl s_client -connect "$LOCAL" -alpn acme-tls/1 -servername "$NAME" </dev/null 2>&1 || true; } |
        grep -i 'no application protocol'
}

serial() {
    openssl s_client -connect "$LOCAL" -servername "$NAME" -cert "$WORK/client.crt" -key "$WORK/client.key" </dev/null 2>/dev/null |
        openssl x509 -noout -serial
}
export -f serial

restarted() {
    "$ENTREPOT" ls --config "$WORK/config.yaml"
    curl_it /readyz
}

another_serial() {
    local after
    after=$(serial)
    [ -n "$after" ] && [ "$after" != "$1" ]
}

# A body that takes longer than the certificate that its connection began with has left before it is renewed.
renewed_while_sending() {
    local before upload
    before=$(serial)
    head -c 4000000 /dev/urandom >"$WORK/body"
    upload=$(curl_it /v2/team/slow/blobs/uploads/ -X POST -D - -o /dev/null | tr -d '\r' |
        awk 'tolower($1) == "location:" { print $2 }')
    curl_it "$upload" --limit-rate 100K -X PATCH -H 'Content-Type: application/octet-stream' -T "$WORK/body" &
    until_true 90 another_serial "$before"
    wait $!
    curl_it /metrics | grep '^entrepot_acme_attempts_total{result="issued"}'
}

find_pebble || {
    finish
    exit 0
}
make_pebble
make_client
make_issued_entrepot require
check pebble "without the key of an external account: refused, and told what to do" strangers_are_refused
stop entrepot
printf '%s\n' "$KEY" >"$WORK/key"
make_issued_entrepot require ", external_account: {key_id: ci, key_file: $WORK/key}"
check pebble "the first certificate, proven where clients must show theirs; curl believes it" first_certificate
check pebble "it is for the name, and proofs are given only while they are waited for" for_that_name
check pebble "it is renewed while a connection goes on" renewed_while_sending
stop entrepot
make_issued_entrepot request ", external_account: {key_id: ci, key_file: $WORK/key}"
check entrepot "after a restart the kept one is served, and commands know the server by it" restarted
finish
