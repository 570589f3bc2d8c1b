// Command data-hub stands in for Confidential Containers' data hub (CDH): a ttrpc server by containerd's
// own library, so that nacre's client is tried against somebody else's reading of the protocol.
//
//	data-hub SOCKET DIRECTORY
//
// api.GetResourceService answers kbs:///A/B/C with the file DIRECTORY/A/B/C. keyprovider.KeyProviderService
// wraps and unwraps by reversing. While DIRECTORY/hang exists, calls are not answered. It says "ready" on
// its standard output and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The messages of both services have one field, number 1, of text or bytes: so have the wrappers.
type hub struct{ directory string }

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: data-hub SOCKET DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1], hub{os.Args[2]}); err != nil {
		fmt.Fprintln(os.Stderr, "data-hub:", err)
		os.Exit(1)
	}
}

func run(socket string, it hub) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	server.RegisterService("api.GetResourceService", &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{"GetResource": it.getResource},
	})
	server.RegisterService("keyprovider.KeyProviderService", &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"WrapKey":   it.reverse("keywrapparams", "optsdata", "keywrapresults", "annotation"),
			"UnWrapKey": it.reverse("keyunwrapparams", "annotation", "keyunwrapresults", "optsdata"),
		},
	})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close()
	}()
	fmt.Println("ready")
	if err := server.Serve(context.Background(), listener); !errors.Is(err, ttrpc.ErrServerClosed) {
		return err
	}
	return nil
}

func (it hub) hangs() {
	if _, err := os.Stat(filepath.Join(it.directory, "hang")); err == nil {
		select {}
	}
}

func (it hub) getResource(_ context.Context, decode func(any) error) (any, error) {
	var uri wrapperspb.StringValue
	if err := decode(&uri); err != nil {
		return nil, err
	}
	it.hangs()
	path, found := strings.CutPrefix(uri.Value, "kbs:///")
	if !found || !filepath.IsLocal(path) {
		return nil, status.Errorf(codes.InvalidArgument, "[CDH] [ERROR]: illegal uri %s", uri.Value)
	}
	bytes, err := os.ReadFile(filepath.Join(it.directory, path))
	if err != nil {
		return nil, status.Error(codes.Internal, "[CDH] [ERROR]: get resource failed")
	}
	return &wrapperspb.BytesValue{Value: bytes}, nil
}

// As Confidential Containers' Rust side, it reads and writes arrays of numbers.
func (it hub) reverse(params, from, results, to string) ttrpc.Method {
	return func(_ context.Context, decode func(any) error) (any, error) {
		var input wrapperspb.BytesValue
		if err := decode(&input); err != nil {
			return nil, err
		}
		it.hangs()
		var request map[string]json.RawMessage
		if err := json.Unmarshal(input.Value, &request); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(request[params], &inner); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		var numbers []int
		if err := json.Unmarshal(inner[from], &numbers); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		slices.Reverse(numbers)
		reply, err := json.Marshal(map[string]any{results: map[string]any{to: numbers}})
		if err != nil {
			return nil, err
		}
		return &wrapperspb.BytesValue{Value: reply}, nil
	}
}
