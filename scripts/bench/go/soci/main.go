// The SOCI snapshotter of its published module, whose own commands are not published: serves it,
// converts an image for it (index v2) and pushes that, pulls one with the labels that it wants.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/awslabs/soci-snapshotter/config"
	"github.com/awslabs/soci-snapshotter/fs"
	"github.com/awslabs/soci-snapshotter/fs/source"
	"github.com/awslabs/soci-snapshotter/metadata"
	"github.com/awslabs/soci-snapshotter/service"
	"github.com/awslabs/soci-snapshotter/soci"
	"github.com/awslabs/soci-snapshotter/soci/store"
	"github.com/awslabs/soci-snapshotter/ztoc"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ctdsnapshotters "github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/platforms"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "", "containerd's socket (convert, rpull)")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("usage: bench-soci [-address SOCKET] serve|convert|rpull ...")
	}
	ctx := namespaces.WithNamespace(context.Background(), namespaces.Default)
	command, rest := flag.Arg(0), flag.Args()[1:]
	var err error
	switch command {
	case "serve":
		err = serve(ctx, rest)
	case "convert":
		err = convert(ctx, *address, rest)
	case "rpull":
		err = pull(ctx, *address, rest)
	default:
		err = fmt.Errorf("unknown command %q", command)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	socket := flags.String("socket", "", "Unix socket to serve on")
	root := flags.String("root", "", "directory of the snapshotter")
	registry := flags.String("registry", "", "registry to speak plain HTTP to")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	// Its defaults, but for where things are.
	cfg := config.NewConfig()
	cfg.ResolverConfig.Host = map[string]config.HostConfig{
		*registry: {Mirrors: []config.MirrorConfig{{Host: "http://" + *registry, Insecure: true}}},
	}
	if err := os.MkdirAll(*root, 0o700); err != nil {
		return err
	}
	options := bolt.Options{NoFreelistSync: true, InitialMmapSize: 64 << 20, FreelistType: bolt.FreelistMapType}
	db, err := bolt.Open(filepath.Join(*root, "metadata.db"), 0o600, &options)
	if err != nil {
		return err
	}
	files := func(reader *io.SectionReader, toc ztoc.TOC, opts ...metadata.Option) (metadata.Reader, error) {
		return metadata.NewReader(db, reader, toc, opts...)
	}
	snapshotter, err := service.NewSociSnapshotterService(ctx, *root, &cfg.ServiceConfig,
		service.WithFilesystemOptions(fs.WithMetadataStore(files)))
	if err != nil {
		return err
	}
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(namespaced))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	return server.Serve(listener)
}

// namespaced hands the caller's namespace on, which the snapshotter's clients of containerd want.
// Debian's containerd does not send it: then it is that of everything here.
func namespaced(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	namespace, ok := namespaces.Namespace(ctx)
	if !ok {
		namespace = namespaces.Default
	}
	return next(namespaces.WithNamespace(ctx, namespace), request)
}

func convert(ctx context.Context, address string, arguments []string) error {
	flags := flag.NewFlagSet("convert", flag.ExitOnError)
	root := flags.String("root", "", "directory for the artifacts' database")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	from, to := flags.Arg(0), flags.Arg(1)
	containerd, err := client.New(address)
	if err != nil {
		return err
	}
	defer containerd.Close()
	image, err := containerd.ImageService().Get(ctx, from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*root, 0o700); err != nil {
		return err
	}
	artifacts, err := soci.NewDB(soci.ArtifactsDbPath(*root))
	if err != nil {
		return err
	}
	blobs, err := store.NewContentStore(store.WithType(store.ContainerdContentStoreType), store.WithContainerdAddress(address))
	if err != nil {
		return err
	}
	builder, err := soci.NewIndexBuilder(containerd.ContentStore(), blobs, soci.WithArtifactsDb(artifacts))
	if err != nil {
		return err
	}
	batch, done, err := blobs.BatchOpen(ctx)
	if err != nil {
		return err
	}
	defer done(ctx)
	converted, err := builder.Convert(batch, image)
	if err != nil {
		return err
	}
	return containerd.Push(batch, to, *converted, client.WithResolver(plainHTTP()), client.WithPlatformMatcher(platforms.All))
}

func pull(ctx context.Context, address string, arguments []string) error {
	flags := flag.NewFlagSet("rpull", flag.ExitOnError)
	snapshotter := flags.String("snapshotter", "soci", "name of the plugin")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	reference := flags.Arg(0)
	containerd, err := client.New(address)
	if err != nil {
		return err
	}
	defer containerd.Close()
	labels := source.AppendDefaultLabelsHandlerWrapper("", ctdsnapshotters.AppendInfoHandlerWrapper(reference))
	_, err = containerd.Pull(ctx, reference,
		client.WithResolver(plainHTTP()),
		client.WithImageHandlerWrapper(func(handler images.Handler) images.Handler { return labels(handler) }),
		client.WithPullUnpack,
		client.WithPullSnapshotter(*snapshotter),
	)
	return err
}

func plainHTTP() remotes.Resolver {
	always := func(string) (bool, error) { return true, nil }
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(always), docker.WithClient(http.DefaultClient))
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
}
