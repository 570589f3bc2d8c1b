// containerd's way with encrypted images, of imgcrypt's published module, whose own commands are not
// published: `pull` hands the key over with every layer, `decode` is the stream processor that
// containerd then runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/imgcrypt"
	"github.com/containerd/imgcrypt/images/encryption"
	"github.com/containerd/typeurl"
	"github.com/containers/ocicrypt/config"
	"github.com/gogo/protobuf/proto"
	"github.com/gogo/protobuf/types"
)

func main() {
	address := flag.String("address", "", "containerd's socket (pull)")
	flag.Parse()
	var err error
	switch flag.Arg(0) {
	case "decode":
		err = decode()
	case "pull":
		err = pull(*address, flag.Args()[1:])
	default:
		err = errors.New("usage: bench-imgcrypt [-address SOCKET] pull|decode ...")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// decode decrypts standard input; what it needs for that comes over descriptor 3.
func decode() error {
	data, err := io.ReadAll(os.NewFile(3, "payload"))
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	var wrapped types.Any
	if err := proto.Unmarshal(data, &wrapped); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	value, err := typeurl.UnmarshalAny(&wrapped)
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	payload, ok := value.(*imgcrypt.Payload)
	if !ok {
		return fmt.Errorf("payload: is a %T", value)
	}
	_, plain, _, err := encryption.DecryptLayer(&payload.DecryptConfig, os.Stdin, payload.Descriptor, false)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, plain)
	return err
}

func pull(address string, arguments []string) error {
	flags := flag.NewFlagSet("pull", flag.ExitOnError)
	key := flags.String("key", "", "private key")
	snapshotter := flags.String("snapshotter", "overlayfs", "where to unpack")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	pem, err := os.ReadFile(*key)
	if err != nil {
		return err
	}
	crypto, err := config.DecryptWithPrivKeys([][]byte{pem}, [][]byte{nil})
	if err != nil {
		return err
	}
	payload := imgcrypt.Payload{DecryptConfig: *crypto.DecryptConfig}
	unpack := []containerd.UnpackOpt{encryption.WithUnpackConfigApplyOpts(encryption.WithDecryptedUnpack(&payload))}
	client, err := containerd.New(address)
	if err != nil {
		return err
	}
	defer client.Close()
	always := func(string) (bool, error) { return true, nil }
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(always), docker.WithClient(http.DefaultClient))
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
	_, err = client.Pull(namespaces.WithNamespace(context.Background(), "default"), flags.Arg(0),
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(*snapshotter),
		encryption.WithUnpackOpts(unpack),
	)
	return err
}
