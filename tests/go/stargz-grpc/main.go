// Serves containerd's stargz snapshotter on a unix socket: the daemon of that project is not a
// package that can be installed by itself, its service is.
package main

import (
	"context"
	"flag"
	"log"
	"net"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/stargz-snapshotter/service"
	"github.com/containerd/stargz-snapshotter/service/resolver"
	"google.golang.org/grpc"
)

func main() {
	address := flag.String("address", "", "unix socket to serve on")
	root := flag.String("root", "", "directory of the snapshotter")
	registry := flag.String("registry", "", "registry to speak plain HTTP to")
	flag.Parse()

	config := service.Config{
		ResolverConfig: service.ResolverConfig{
			Host: map[string]resolver.HostConfig{
				*registry: {Mirrors: []resolver.MirrorConfig{{Host: *registry, Insecure: true}}},
			},
		},
	}
	snapshotter, err := service.NewStargzSnapshotterService(context.Background(), *root, &config)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", *address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	log.Print("stargz is ready")
	log.Fatal(server.Serve(listener))
}
