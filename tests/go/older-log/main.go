// A log that speaks as much of Rekor's first API as cosign 2 needs to sign: an entry in, the log's
// promise and a proof out. The real one wants Trillian and MySQL. Every entry is the only leaf of a tree
// of its own, and nothing is kept.
//
//	older-log 127.0.0.1:PORT PUBLIC-KEY-FILE
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	origin   = "older-log - 1"
	tree     = "0000000000000001"
	maxEntry = 1 << 20
)

type older struct {
	key *ecdsa.PrivateKey
	id  [32]byte
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: older-log 127.0.0.1:PORT PUBLIC-KEY-FILE")
	}
	address, err := net.ResolveTCPAddr("tcp", os.Args[1])
	if err != nil || !address.IP.IsLoopback() {
		log.Fatalf("%s: not an address on loopback", os.Args[1])
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		log.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	if err := os.WriteFile(os.Args[2], public, 0o644); err != nil {
		log.Fatal(err)
	}
	it := older{key: key, id: sha256.Sum256(spki)}
	http.HandleFunc("POST /api/v1/log/entries", it.add)
	http.HandleFunc("GET /api/v1/log/publicKey", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Write(public)
	})
	server := http.Server{Addr: address.String(), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

func (it older) add(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEntry))
	var entry map[string]any
	if err == nil {
		err = json.Unmarshal(text, &entry)
	}
	if err != nil || entry["kind"] != "hashedrekord" {
		http.Error(w, fmt.Sprintf("not an entry of kind hashedrekord: %v", err), http.StatusBadRequest)
		return
	}
	// Names in order and no white space: the canonical form.
	body := marshal(entry)
	leaf := sha256.Sum256(append([]byte{0}, body...))
	now := time.Now().Unix()
	promised := marshal(map[string]any{
		"body": body, "integratedTime": now, "logIndex": 0, "logID": hex.EncodeToString(it.id[:]),
	})
	note := fmt.Sprintf("%s\n1\n%s\n", origin, encode(leaf[:]))
	signature := append(append([]byte{}, it.id[:4]...), it.sign([]byte(note))...)
	uuid := tree + hex.EncodeToString(leaf[:])
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
	w.WriteHeader(http.StatusCreated)
	w.Write(marshal(map[string]any{uuid: map[string]any{
		"body": body, "integratedTime": now, "logIndex": 0, "logID": hex.EncodeToString(it.id[:]),
		"verification": map[string]any{
			"signedEntryTimestamp": it.sign(promised),
			"inclusionProof": map[string]any{
				"logIndex": 0, "treeSize": 1, "hashes": []string{},
				"rootHash":   hex.EncodeToString(leaf[:]),
				"checkpoint": fmt.Sprintf("%s\n\u2014 older-log %s\n", note, encode(signature)),
			},
		},
	}}))
}

func (it older) sign(message []byte) []byte {
	hash := sha256.Sum256(message)
	signature, err := ecdsa.SignASN1(rand.Reader, it.key, hash[:])
	if err != nil {
		log.Fatal(err)
	}
	return signature
}

func marshal(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	return text
}

func encode(bytes []byte) string {
	return base64.StdEncoding.EncodeToString(bytes)
}
