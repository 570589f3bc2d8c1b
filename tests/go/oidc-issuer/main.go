// An OpenID Connect issuer for a private Sigstore: whoever asks gets a token for the address that is
// asked for. It listens where it is told, on loopback, and nowhere else.
//
//	oidc-issuer 127.0.0.1:PORT
//	GET /token?email=dev@example.com[&audience=sigstore]
package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// How long a token is good for.
const life = 10 * time.Minute

type issuer struct {
	url string
	key *rsa.PrivateKey
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: oidc-issuer 127.0.0.1:PORT")
	}
	address, err := net.ResolveTCPAddr("tcp", os.Args[1])
	if err != nil || !address.IP.IsLoopback() {
		log.Fatalf("%s: not an address on loopback", os.Args[1])
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	it := issuer{url: "http://" + address.String(), key: key}
	http.HandleFunc("GET /.well-known/openid-configuration", it.configuration)
	http.HandleFunc("GET /keys", it.keys)
	http.HandleFunc("GET /token", it.token)
	server := http.Server{Addr: address.String(), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

func (it issuer) configuration(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{
		"issuer":                                it.url,
		"authorization_endpoint":                it.url + "/authorize",
		"token_endpoint":                        it.url + "/token",
		"jwks_uri":                              it.url + "/keys",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func (it issuer) keys(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"keys": []any{map[string]any{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1",
		"n": encode(it.key.N.Bytes()),
		"e": encode(big.NewInt(int64(it.key.E)).Bytes()),
	}}})
}

func (it issuer) token(w http.ResponseWriter, r *http.Request) {
	email := r.FormValue("email")
	if email == "" {
		http.Error(w, "email is missing", http.StatusBadRequest)
		return
	}
	audience := r.FormValue("audience")
	if audience == "" {
		audience = "sigstore"
	}
	now := time.Now()
	header := part(map[string]any{"alg": "RS256", "typ": "JWT", "kid": "1"})
	claims := part(map[string]any{
		"iss": it.url, "aud": audience, "sub": email, "email": email, "email_verified": true,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(life).Unix(),
	})
	hash := sha256.Sum256([]byte(header + "." + claims))
	signature, err := rsa.SignPKCS1v15(rand.Reader, it.key, crypto.SHA256, hash[:])
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s.%s.%s", header, claims, encode(signature))
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		log.Print(err)
	}
}

func part(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	return encode(text)
}

func encode(bytes []byte) string {
	return base64.RawURLEncoding.EncodeToString(bytes)
}
