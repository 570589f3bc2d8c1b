// Command zstdchunked-gen compresses a tar as zstd:chunked with the code that podman and skopeo use.
//
//	zstdchunked-gen TAR BLOB    prints the layer's annotations as JSON
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"go.podman.io/storage/pkg/chunked/compressor"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: zstdchunked-gen TAR BLOB")
	}
	in, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(args[1])
	if err != nil {
		return err
	}
	defer out.Close()
	metadata := map[string]string{}
	level := 3
	w, err := compressor.ZstdCompressor(out, metadata, &level)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, in); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(metadata)
}
