// Command estargz-verify makes and checks lazy layers with containerd's own package, so that nacre's
// reader and writer are tried against the other side.
//
//	estargz-verify build KIND TAR BLOB      KIND: plain, small, inner, landmark, zstd; prints annotations as JSON
//	estargz-verify legacy BLOB              turns the 51-byte footer into the 47-byte one
//	estargz-verify verify KIND DIGEST BLOB  KIND: gzip, zstd; prints "path size sha256" of every file
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "build":
		return build(args[1], args[2], args[3])
	case len(args) == 2 && args[0] == "legacy":
		return legacy(args[1])
	case len(args) == 4 && args[0] == "verify":
		return verify(args[1], args[2], args[3])
	}
	return errors.New("usage: build KIND TAR BLOB | legacy BLOB | verify KIND DIGEST BLOB")
}

func section(path string) (*io.SectionReader, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), nil
}

func build(kind, tarPath, blobPath string) error {
	sr, err := section(tarPath)
	if err != nil {
		return err
	}
	metadata := map[string]string{}
	var options []estargz.Option
	switch kind {
	case "plain":
	case "small":
		options = append(options, estargz.WithChunkSize(1000))
	case "inner":
		options = append(options, estargz.WithChunkSize(1000), estargz.WithMinChunkSize(8000))
	case "landmark":
		options = append(options, estargz.WithPrioritizedFiles([]string{"etc/hello"}))
	case "zstd":
		options = append(options, estargz.WithChunkSize(1000), estargz.WithCompression(&struct {
			*zstdchunked.Compressor
			*zstdchunked.Decompressor
		}{
			&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: metadata},
			&zstdchunked.Decompressor{},
		}))
	default:
		return fmt.Errorf("unknown kind %q", kind)
	}
	blob, err := estargz.Build(sr, options...)
	if err != nil {
		return err
	}
	defer blob.Close()
	out, err := os.Create(blobPath)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, blob); err != nil {
		return err
	}
	if err := blob.Close(); err != nil {
		return err
	}
	metadata[estargz.TOCJSONDigestAnnotation] = blob.TOCDigest().String()
	return json.NewEncoder(os.Stdout).Encode(metadata)
}

func legacy(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	footer := data[len(data)-estargz.FooterSize:]
	old := append([]byte{}, footer[:10]...)
	old = append(old, 22, 0)
	old = append(old, footer[16:]...)
	return os.WriteFile(path, append(data[:len(data)-estargz.FooterSize], old...), 0o644)
}

func verify(kind, want, blobPath string) error {
	sr, err := section(blobPath)
	if err != nil {
		return err
	}
	var options []estargz.OpenOption
	if kind == "zstd" {
		options = append(options, estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	}
	r, err := estargz.Open(sr, options...)
	if err != nil {
		return err
	}
	verifier, err := r.VerifyTOC(digest.Digest(want))
	if err != nil {
		return err
	}
	root, ok := r.Lookup("")
	if !ok {
		return errors.New("no root")
	}
	return walk(r, verifier, "", root)
}

func walk(r *estargz.Reader, v estargz.TOCEntryVerifier, path string, e *estargz.TOCEntry) error {
	type child struct {
		name string
		ent  *estargz.TOCEntry
	}
	var children []child
	e.ForeachChild(func(name string, ent *estargz.TOCEntry) bool {
		children = append(children, child{name, ent})
		return true
	})
	sort.Slice(children, func(i, j int) bool { return children[i].name < children[j].name })
	for _, c := range children {
		full := path + "/" + c.name
		if c.ent.Type == "reg" {
			if err := file(r, v, full, c.ent); err != nil {
				return fmt.Errorf("%s: %w", full, err)
			}
		}
		if c.ent.Type == "dir" {
			if err := walk(r, v, full, c.ent); err != nil {
				return err
			}
		}
	}
	return nil
}

func file(r *estargz.Reader, v estargz.TOCEntryVerifier, path string, e *estargz.TOCEntry) error {
	content, err := r.OpenFile(path)
	if err != nil {
		return err
	}
	whole := sha256.New()
	var offset int64
	for offset < e.Size {
		chunk, ok := r.ChunkEntryForOffset(path, offset)
		if !ok {
			return fmt.Errorf("no chunk at %d", offset)
		}
		data := make([]byte, chunk.ChunkSize)
		if _, err := content.ReadAt(data, offset); err != nil && err != io.EOF {
			return fmt.Errorf("chunk at %d: %w", offset, err)
		}
		verifier, err := v.Verifier(chunk)
		if err != nil {
			return err
		}
		verifier.Write(data)
		if !verifier.Verified() {
			return fmt.Errorf("chunk at %d does not verify", offset)
		}
		whole.Write(data)
		offset += chunk.ChunkSize
	}
	fmt.Printf("%s %d %x\n", path[1:], e.Size, whole.Sum(nil))
	return nil
}
