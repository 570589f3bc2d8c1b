// Command ocicrypt-interop lets the Go implementation of ocicrypt make what nacre reads, and read what
// nacre makes.
//
//	ocicrypt-interop jwk ALG PRIVATE.pem PRIVATE.jwk PUBLIC.jwk
//	ocicrypt-interop encrypt RECIPIENT... < PLAIN > RESULT.json
//	ocicrypt-interop decrypt DESCRIPTOR.json KEY... < BLOB > PLAIN
//
// RECIPIENT and KEY are in skopeo's words (jwe:FILE, pkcs7:FILE, provider:NAME[:PARAMETER]; FILE, for
// pkcs7 the certificate too). RESULT.json has the layer's annotations and its ciphertext. Key providers
// are those of OCICRYPT_KEYPROVIDER_CONFIG.
package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/helpers"
	"github.com/go-jose/go-jose/v4"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type result struct {
	Annotations map[string]string `json:"annotations"`
	Ciphertext  []byte            `json:"ciphertext"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ocicrypt-interop:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 5 && args[0] == "jwk":
		return makeJWK(args[1], args[2], args[3], args[4])
	case len(args) > 1 && args[0] == "encrypt":
		return encrypt(args[1:])
	case len(args) > 2 && args[0] == "decrypt":
		return decrypt(args[1], args[2:])
	}
	return errors.New("want jwk, encrypt or decrypt; see the source")
}

func makeJWK(alg, in, private, public string) error {
	text, err := os.ReadFile(in)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fmt.Errorf("%s: no PEM", in)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s: no key pair", in)
	}
	for path, key := range map[string]any{private: key, public: signer.Public()} {
		jwk := jose.JSONWebKey{Key: key, Algorithm: alg, Use: "enc", KeyID: "interop"}
		text, err := jwk.MarshalJSON()
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func encrypt(recipients []string) error {
	plain, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	cc, err := helpers.CreateCryptoConfig(recipients, nil)
	if err != nil {
		return err
	}
	layer := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer,
		Digest:    digest.FromBytes(plain),
		Size:      int64(len(plain)),
	}
	reader, finish, err := ocicrypt.EncryptLayer(cc.EncryptConfig, bytes.NewReader(plain), layer)
	if err != nil {
		return err
	}
	var out result
	if out.Ciphertext, err = io.ReadAll(reader); err != nil {
		return err
	}
	if out.Annotations, err = finish(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func decrypt(descriptor string, keys []string) error {
	text, err := os.ReadFile(descriptor)
	if err != nil {
		return err
	}
	var layer ocispec.Descriptor
	if err := json.Unmarshal(text, &layer); err != nil {
		return err
	}
	cc, err := helpers.CreateDecryptCryptoConfig(keys, nil)
	if err != nil {
		return err
	}
	reader, _, err := ocicrypt.DecryptLayer(cc.DecryptConfig, os.Stdin, layer, false)
	if err != nil {
		return err
	}
	// Its reader checks the HMAC at the end.
	_, err = io.Copy(os.Stdout, reader)
	return err
}
