// Runs containerd's own snapshotter suite against `nacre serve`, through the client that containerd
// uses for a proxy plugin. NACRE names the program; each case gets a daemon with a root of its own.
//
//	NACRE=target/debug/nacre go test ./...
package suite

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestNacre(t *testing.T) {
	program := os.Getenv("NACRE")
	if program == "" {
		t.Skip("skipped: NACRE does not name the program")
	}
	if os.Getuid() != 0 {
		t.Skip("skipped: not root")
	}
	// With a name that it does not know, the suite also renames a directory of a lower layer, which
	// overlayfs refuses without redirect_dir. containerd's overlay snapshotter is called "overlayfs"
	// for the same reason; every other case is the same under both names.
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		return serve(program, root)
	})
}

func serve(program, root string) (snapshots.Snapshotter, func() error, error) {
	config := filepath.Join(root, "nacre.toml")
	socket := filepath.Join(root, "s")
	text := fmt.Sprintf("root = %q\nsocket = %q\nlazy = false\n", filepath.Join(root, "n"), socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	daemon := exec.Command(program, "serve", "--config", config)
	daemon.Stderr = os.Stderr
	output, err := daemon.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := daemon.Start(); err != nil {
		return nil, nil, err
	}
	// It says so when it listens.
	if _, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		return nil, nil, fmt.Errorf("nacre serve ended: %w", daemon.Wait())
	}
	connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	stop := func() error {
		if err := connection.Close(); err != nil {
			return err
		}
		if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return daemon.Wait()
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "nacre"), stop, nil
}
