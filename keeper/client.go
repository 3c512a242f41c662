package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/ttrpc"

	"github.com/hyper-runtime/hyper/keeper/api"
)

// call is the client's end of a connection to a keeper.
type call struct {
	api.KeeperService
	api.ProcessService
	client *ttrpc.Client
}

// dial begins a connection that brings the files along. It takes conn over.
func dial(conn *net.UnixConn, files ...*os.File) (*call, error) {
	if err := sendFiles(conn, files...); err != nil {
		conn.Close()
		return nil, err
	}
	client := ttrpc.NewClient(conn, ttrpc.WithUnaryClientInterceptor(plainErrors))
	return &call{KeeperService: api.NewKeeperClient(client), ProcessService: api.NewProcessClient(client), client: client}, nil
}

func (c *call) Close() error { return c.client.Close() }

// plainErrors gives callers the keeper's own words without the transport's.
func plainErrors(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	err := invoke(ctx, req, resp)
	if errors.Is(err, ttrpc.ErrClosed) {
		return ErrKeeperGone
	}
	if err == nil && resp.Status.GetCode() != 0 {
		return errors.New(resp.Status.GetMessage())
	}
	return err
}

// ErrKeeperGone means that the keeper ended before it answered.
var ErrKeeperGone = errors.New("the container's keeper has ended")

// open tells a new keeper or stand-in what it is for.
func (c *call) open(ctx context.Context, o CreateOptions) error {
	cfg, err := json.Marshal(o.Config)
	if err != nil {
		return fmt.Errorf("encode config: %w", err)
	}
	_, err = c.Open(ctx, &api.OpenRequest{
		Root: o.Root, ContainerId: o.ID, Config: cfg, ConsoleSocket: o.ConsoleSocket,
		OwnTerminal: o.Foreground, Debug: o.Debug, AtOnce: o.AtOnce,
	})
	return err
}
