// The zTOC of a layer, by the SOCI that AWS publishes: soci-ztoc LAYER SPAN-SIZE OUTPUT.
package main

import (
	"io"
	"log"
	"os"
	"strconv"

	"github.com/awslabs/soci-snapshotter/ztoc"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: soci-ztoc LAYER SPAN-SIZE OUTPUT")
	}
	span, err := strconv.ParseInt(os.Args[2], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	made, err := ztoc.NewBuilder("test").BuildZtoc(os.Args[1], span)
	if err != nil {
		log.Fatal(err)
	}
	reader, _, err := ztoc.Marshal(made)
	if err != nil {
		log.Fatal(err)
	}
	bytes, err := io.ReadAll(reader)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(os.Args[3], bytes, 0o644); err != nil {
		log.Fatal(err)
	}
}
