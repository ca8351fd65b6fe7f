// A token service for the client suite (distribution's token authentication): tokens to pull and push for one user, tokens
// for nothing to everybody else. It makes its key and certificate at start.
//
//	tokens ADDRESS ISSUER USER PASSWORD CERTIFICATE
//
// The certificate is written to the file CERTIFICATE, for the registry to trust. Every token is a line on standard output.
package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"
)

const lifetime = 5 * time.Minute

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: tokens ADDRESS ISSUER USER PASSWORD CERTIFICATE")
	}
	address, issuer, user, password, file := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	certificate := certify(key, issuer)
	check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o644))

	http.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		name, secret, given := r.BasicAuth()
		if given && (name != user || secret != password) {
			http.Error(w, "wrong user or password", http.StatusUnauthorized)
			return
		}
		granted := []access{}
		for _, scope := range r.URL.Query()["scope"] {
			// repository:NAME:pull,push; a name may have a port, hence a colon.
			first, last := strings.Index(scope, ":"), strings.LastIndex(scope, ":")
			if given && first > 0 && last > first {
				granted = append(granted, access{scope[:first], scope[first+1 : last], strings.Split(scope[last+1:], ",")})
			}
		}
		now := time.Now()
		token := sign(key, certificate, map[string]any{
			"iss": issuer, "sub": name, "aud": r.URL.Query().Get("service"), "jti": fmt.Sprint(now.UnixNano()),
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(lifetime).Unix(), "access": granted,
		})
		fmt.Printf("token for %q: %v\n", name, granted)
		w.Header().Set("Content-Type", "application/json")
		check(json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": int(lifetime.Seconds())}))
	})
	log.Fatal(http.ListenAndServe(address, nil))
}

func certify(key *rsa.PrivateKey, issuer string) []byte {
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: issuer},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	check(err)
	return certificate
}

func sign(key *rsa.PrivateKey, certificate []byte, claims map[string]any) string {
	header := map[string]any{
		"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(certificate)},
	}
	text := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	check(err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func encode(part map[string]any) string {
	text, err := json.Marshal(part)
	check(err)
	return base64.RawURLEncoding.EncodeToString(text)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
