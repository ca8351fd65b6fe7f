#!/usr/bin/env bash
# The wire itself, by curl and openssl: what clients send that none of the other scripts shows on its own.

. "$(dirname "$0")/../registries.sh"
need wire curl openssl

SCRATCH=$WORK/wire
mkdir -p "$SCRATCH"

# headers CURL-ARGUMENTS…: the response's header lines, names in lower case, without the lines that may differ.
headers() {
    curl -sS -o "$SCRATCH/body" -D - "$@" | tr -d '\r' | sed -e 's/^\([^:]*\):/\L\1:/' -e '/^$/d' |
        grep -v -e '^date:' -e '^entrepot-cache:' -e '^x-request-id:' -e '^keep-alive:' -e '^connection:' | sort
}

# header NAME CURL-ARGUMENTS…: one header's value.
header() {
    local name=$1
    shift
    curl -sS -o "$SCRATCH/body" -D - "$@" | tr -d '\r' | awk -F': ' -v name="$name" 'tolower($1) == name { print $2 }'
}

status() {
    curl -sS -o "$SCRATCH/body" -w '%{http_code}' "$@"
}

sha() {
    echo "sha256:$(sha256sum "$@" | cut -d' ' -f1)"
}

# layer_of MANIFEST-DIGEST N: the digest of one layer, from the layout and not from the server under test.
layer_of() {
    jq -r ".layers[$2].digest" "$LAYOUT/blobs/sha256/${1#sha256:}"
}

base_route() {
    same "$(status "http://$REGISTRY/v2/")" 200
    same "$(header docker-distribution-api-version "http://$REGISTRY/v2/")" registry/2.0
    same "$(header docker-distribution-api-version "http://$REGISTRY/v2/team/none/manifests/none")" registry/2.0
}

# A server that waits for a whole HTTP head costs every insecure client ten seconds. The hello is random: try some.
tls_hello() {
    local started elapsed_ms
    for _ in 1 2 3 4 5; do
        started=$(date +%s%N)
        timeout 15 openssl s_client -connect "$REGISTRY" </dev/null || true
        elapsed_ms=$((($(date +%s%N) - started) / 1000000))
        [ "$elapsed_ms" -lt 1000 ] || { echo "took $elapsed_ms ms"; return 1; }
    done
    curl -sS --max-time 1 "https://$REGISTRY/v2/" || same "curl ended with $?" "curl ended with 35"
}

head_pins_what_get_asks() {
    local digest
    digest=$(header docker-content-digest --head -H "Accept: $MANIFEST_TYPES" "http://$REGISTRY/v2/library/multi/manifests/1")
    same "$digest" "$INDEX_DIGEST"
    same "$(digest_of "$REGISTRY" library/multi "$digest")" "$INDEX_DIGEST"
}

repeated_accept_lines() {
    same "$(header content-type \
        -H 'Accept: application/vnd.docker.distribution.manifest.v1+prettyjws' -H 'Accept: application/json' \
        -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
        -H 'Accept: application/vnd.docker.distribution.manifest.list.v2+json' \
        -H 'Accept: application/vnd.oci.image.manifest.v1+json' -H 'Accept: application/vnd.oci.image.index.v1+json' \
        "http://$REGISTRY/v2/library/multi/manifests/1")" application/vnd.oci.image.index.v1+json
    same "$(sha "$SCRATCH/body")" "$INDEX_DIGEST"
}

names_of_one_repository() {
    same "$(digest_of "$REGISTRY" library/multi "1?ns=docker.io")" "$INDEX_DIGEST"
    same "$(digest_of "$REGISTRY" docker.io/library/multi 1)" "$INDEX_DIGEST"
    same "$(status "http://$REGISTRY/v2/library/multi/manifests/1?ns=registry.invalid")" 404
    same "$(jq -r '.errors[0].code' "$SCRATCH/body")" NAME_UNKNOWN
}

# Three ways in, each on a blob that nothing has fetched before.
range_on_a_cold_blob() {
    local digest=$1 file=$LAYOUT/blobs/sha256/${1#sha256:} size
    size=$(stat -c %s "$file")
    same "$(status -H 'Range: bytes=1000000-' "http://$REGISTRY/v2/library/multi/blobs/$digest?ns=docker.io")" 206
    same "$(sha "$SCRATCH/body")" "$(tail -c +1000001 "$file" | sha)"
    same "$(header content-range -H 'Range: bytes=1000000-' "http://$REGISTRY/v2/library/multi/blobs/$digest")" \
        "bytes 1000000-$((size - 1))/$size"
}

range_on_a_warm_blob() {
    local digest=$1 file=$LAYOUT/blobs/sha256/${1#sha256:} size
    size=$(stat -c %s "$file")
    curl -fsS -o "$SCRATCH/whole" "http://$REGISTRY/v2/library/multi/blobs/$digest"
    same "$(sha "$SCRATCH/whole")" "$digest"
    head -c 54321 "$file" >"$SCRATCH/part"
    curl -fsS --continue-at - -o "$SCRATCH/part" "http://$REGISTRY/v2/library/multi/blobs/$digest"
    same "$(sha "$SCRATCH/part")" "$digest"
    same "$(status -H 'Range: bytes=-10' "http://$REGISTRY/v2/library/multi/blobs/$digest")" 206
    same "$(sha "$SCRATCH/body")" "$(tail -c 10 "$file" | sha)"
    same "$(status -H "Range: bytes=$size-" "http://$REGISTRY/v2/library/multi/blobs/$digest")" 416
}

encoding_is_never_applied() {
    local path
    for path in library/multi/manifests/1 "library/multi/blobs/$1" team/wire/tags/list _catalog; do
        same "none $(header content-encoding -H 'Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5' \
            -H "Accept: $MANIFEST_TYPES" "http://$REGISTRY/v2/$path")" "none "
    done
    header etag -H 'Accept-Encoding: gzip' "http://$REGISTRY/v2/library/multi/blobs/$1"
    same "$(sha "$SCRATCH/body")" "$1"
}

head_is_get_without_body() {
    local path
    for path in library/multi/manifests/1 "library/multi/manifests/$AMD64_DIGEST" "library/multi/blobs/$1" team/wire/blobs/"$2"; do
        headers -H "Accept: $MANIFEST_TYPES" "http://$REGISTRY/v2/$path" >"$SCRATCH/get"
        headers --head -H "Accept: $MANIFEST_TYPES" "http://$REGISTRY/v2/$path" >"$SCRATCH/head"
        diff "$SCRATCH/get" "$SCRATCH/head"
        grep -q '^docker-content-digest: sha256:' "$SCRATCH/head"
        grep -q '^content-length: [1-9]' "$SCRATCH/head"
    done
}

conditional_get() {
    local etag
    etag=$(header etag "http://$REGISTRY/v2/library/multi/blobs/$1")
    same "$(curl -sS -o "$SCRATCH/body" -w '%{http_code} %{size_download}' -H "If-None-Match: $etag" \
        "http://$REGISTRY/v2/library/multi/blobs/$1")" "304 0"
}

# location CURL-ARGUMENTS…: the Location of an answer as an absolute URL.
location() {
    local value
    value=$(header location "$@")
    case $value in
        http*) echo "$value" ;;
        /*) echo "http://$REGISTRY$value" ;;
        *) echo "no Location in the answer" >&2; return 1 ;;
    esac
}

# with_query URL QUERY: appended the way clients do, keeping the query that the server put there.
with_query() {
    case $1 in
        *\?*) echo "$1&$2" ;;
        *) echo "$1?$2" ;;
    esac
}

# POST, PATCH and PUT come on three connections, the PATCH chunked without a length, the digest with an escaped colon.
upload_in_docker_style() {
    local digest=$1 file=$LAYOUT/blobs/sha256/${1#sha256:} url
    url=$(location -X POST "http://$REGISTRY/v2/team/wire/blobs/uploads/")
    url=$(location -X PATCH -H 'Transfer-Encoding: chunked' -H 'Content-Type:' --data-binary "@$file" "$url")
    same "$(status -X PUT -H 'Content-Length: 0' "$(with_query "$url" "digest=${digest/:/%3A}")")" 201
    same "$(header docker-content-digest --head "http://$REGISTRY/v2/team/wire/blobs/$digest")" "$digest"
}

upload_in_containerd_style() {
    local digest=$1 file=$LAYOUT/blobs/sha256/${1#sha256:} url
    url=$(location -X POST "http://$REGISTRY/v2/team/wire/blobs/uploads/")
    same "$(status -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$file" "$(with_query "$url" "digest=$digest")")" 201
}

# Between these two the server is killed; the session says how far it came, and goes on from exactly there.
upload_half() {
    local file=$LAYOUT/blobs/sha256/${1#sha256:} url
    url=$(location -X POST "http://$REGISTRY/v2/killed/wire/blobs/uploads/")
    head -c 1000000 "$file" >"$SCRATCH/half"
    location -X PATCH -H 'Content-Type: application/octet-stream' -H 'Content-Range: 0-999999' \
        --data-binary "@$SCRATCH/half" "$url" >"$SCRATCH/session"
}

upload_rest() {
    local file=$LAYOUT/blobs/sha256/${1#sha256:} url size
    size=$(stat -c %s "$file")
    url=$(cat "$SCRATCH/session")
    same "$(header range "$url")" 0-999999
    tail -c +1000001 "$file" >"$SCRATCH/half"
    url=$(location -X PATCH -H 'Content-Type: application/octet-stream' -H "Content-Range: 1000000-$((size - 1))" \
        --data-binary "@$SCRATCH/half" "$url")
    same "$(status -X PUT -H 'Content-Length: 0' "$(with_query "$url" "digest=$1")")" 201
    same "$(sha <(curl -fsS "http://$REGISTRY/v2/killed/wire/blobs/$1"))" "$1"
}

http2_without_tls() {
    same "$(curl -sS --http2-prior-knowledge -o "$SCRATCH/body" -w '%{http_version} %{http_code}' \
        "http://$REGISTRY/v2/library/multi/blobs/$1")" "2 200"
    same "$(sha "$SCRATCH/body")" "$1"
}

mount_from() {
    same "$(status -X POST "http://$REGISTRY/v2/$1/blobs/uploads/?$2")" 201
    same "$(status --head "http://$REGISTRY/v2/$1/blobs/$3")" 200
}

wrong_digest_leaves_nothing() {
    local wrong=sha256:0000000000000000000000000000000000000000000000000000000000000000 url
    url=$(location -X POST "http://$REGISTRY/v2/team/wire/blobs/uploads/")
    same "$(status -X PUT -H 'Content-Type: application/octet-stream' --data-binary nonsense "$(with_query "$url" "digest=$wrong")")" 400
    same "$(jq -r '.errors[0].code' "$SCRATCH/body")" DIGEST_INVALID
    same "$(status --head "http://$REGISTRY/v2/team/wire/blobs/$wrong")" 404
}

# dockerd repeats a refusal with the usual words for 50 seconds; with words of its own it stops at once and shows them.
refusals_speak_for_themselves() {
    local message
    same "$(status -X PUT -H 'Content-Type: application/vnd.docker.distribution.manifest.v1+prettyjws' --data '{"schemaVersion": 1}' \
        "http://$REGISTRY/v2/team/wire/manifests/1")" 400
    message=$(jq -r '.errors[0].message' "$SCRATCH/body")
    [ -n "$message" ] && [ "$message" != null ] && [ "$message" != "manifest invalid" ]
    same "$(status "http://$REGISTRY/v2/library/multi/manifests/absent")" 404
    same "$(jq -r '.errors[0].code' "$SCRATCH/body")" MANIFEST_UNKNOWN
}

many_clients_one_fetch() {
    local digest=$1 pids=() n
    for n in $(seq 20); do
        curl -fsS -o "$SCRATCH/many.$n" "http://$REGISTRY/v2/library/multi/blobs/$digest" &
        pids+=("$!")
    done
    for n in "${pids[@]}"; do wait "$n"; done
    for n in $(seq 20); do same "$(sha "$SCRATCH/many.$n")" "$digest"; done
    # Of the two lines that the origin logs for each request one quotes the request line.
    same "$(grep -c "\"GET /v2/library/multi/blobs/$digest" "$WORK/origin.log")" 1
}

outcome_is_named() {
    same "$(header entrepot-cache "http://$REGISTRY/v2/library/multi/blobs/$1")" hit
    same "$(header entrepot-cache "http://$REGISTRY/v2/team/wire/blobs/$2")" local
}

an_outage_is_no_404() {
    SECONDS=0
    case $(status "http://$REGISTRY/v2/library/never-pulled/manifests/1") in
        502 | 503 | 504) [ "$SECONDS" -lt 25 ] ;;
        *) cat "$SCRATCH/body"; return 1 ;;
    esac
}

seen_from_outside() {
    same "$(status "http://$REGISTRY/healthz")" 200
    same "$(status "http://$REGISTRY/readyz")" 200
    curl -fsS "http://$REGISTRY/metrics" | grep '^entrepot_'
}

make_origin
make_entrepot
COLD_A=$(layer_of "$AMD64_DIGEST" 1)
COLD_B=$(layer_of "$AMD64_DIGEST" 2)
COLD_C=$(layer_of "$(jq -r '.manifests[1].digest' "$LAYOUT/blobs/sha256/${INDEX_DIGEST#sha256:}")" 1)
OWN_A=$(layer_of "$PRIVATE_DIGEST" 0)
OWN_B=$(layer_of "$PRIVATE_DIGEST" 1)

check wire "GET /v2/ answers 200 and names the API, also on errors" base_route
check wire "a TLS hello on the plain port is answered or closed within 1 s" tls_hello
check wire "HEAD of a cold tag pins the digest that GET asks next" head_pins_what_get_asks
check wire "repeated Accept lines count as one list" repeated_accept_lines
check wire "?ns=, host prefix and bare name are one repository; an unknown ns is closed" names_of_one_repository
check wire "Range bytes=N- on a cold blob" range_on_a_cold_blob "$COLD_A"
check wire "20 clients at once on a cold blob cause one upstream GET" many_clients_one_fetch "$COLD_B"
check wire "ranges on a warm blob: open end, resumed download, suffix, 416" range_on_a_warm_blob "$COLD_C"
check wire "upload as docker: three connections, chunked PATCH, %3A in PUT" upload_in_docker_style "$OWN_A"
check wire "upload as containerd: one PUT with the whole body" upload_in_containerd_style "$OWN_B"
check wire "mount, escaped" mount_from other/wire "from=team%2Fwire&mount=${OWN_A/:/%3A}" "$OWN_A"
check wire "mount, raw" mount_from other/wire "mount=$OWN_B&from=team/wire" "$OWN_B"
check wire "a wrong digest is refused and leaves nothing" wrong_digest_leaves_nothing
check wire "Accept-Encoding compresses nothing" encoding_is_never_applied "$COLD_B"
check wire "HEAD is GET without the body" head_is_get_without_body "$COLD_B" "$OWN_A"
check wire "If-None-Match with the ETag gives 304" conditional_get "$COLD_B"
check wire "HTTP/2 without TLS" http2_without_tls "$COLD_B"
check wire "refusals carry a code and words of their own" refusals_speak_for_themselves
check wire "Entrepot-Cache names hit and local" outcome_is_named "$COLD_B" "$OWN_A"
check wire "healthz, readyz, metrics" seen_from_outside
stop origin
check wire "an outage is never a 404" an_outage_is_no_404
check wire "and what is cached is still served" head_pins_what_get_asks
check wire "half an upload" upload_half "$OWN_A"
stop entrepot KILL
start_entrepot
check wire "after kill -9 the upload goes on at the exact byte" upload_rest "$OWN_A"
finish
