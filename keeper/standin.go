package keeper

import (
	"context"
	"net"
	"os"
	"os/signal"

	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/program"
	"github.com/hyper-runtime/hyper/store"
)

// MemberVerb is the hidden verb of the process that stands for a further container of a sandbox.
const MemberVerb = "member"

// standIn is the state of that process. The fields below stdio are set by Open and Create, before anyone else reads them.
type standIn struct {
	stdio   [3]*os.File // the process's stdin, stdout and stderr, which are the container's
	own     *os.File    // the caller's terminal; nil if it sent none
	joining joining
	first   firstThread
	created chan struct{} // closed when the container is
}

// Member is the life of a stand-in for a container. It returns the status to exit with: the container's.
func Member() int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	stdio, err := takeStdio()
	if err != nil {
		return 1
	}
	conn, err := inherited(requestFD)
	if err != nil {
		return 1
	}
	s := &standIn{stdio: stdio, first: make(firstThread), created: make(chan struct{})}
	left := make(chan struct{})
	go func() {
		defer close(left)
		s.serve(conn)
	}()
	if !s.first.await(s.created, left) {
		return 1 // the verb gave up, failed or was killed; the keeper sees that we are gone
	}
	status := make(chan int)
	go func() {
		code, err := s.joining.attend(context.Background(), signals)
		if err != nil {
			code = 1
		}
		status <- code
	}()
	return <-status
}

// serve answers the verb that started us.
func (s *standIn) serve(conn *net.UnixConn) {
	defer conn.Close()
	files, err := receiveFiles(conn)
	if err != nil {
		return
	}
	s.own = stdioOf(files).In
	answer(conn, func(server *ttrpc.Server) { api.RegisterProcessService(server, s) })
}

// Open implements api.ProcessService.
func (s *standIn) Open(_ context.Context, r *api.OpenRequest) (*api.OpenResponse, error) {
	c, err := Load(r.Root, r.ContainerId)
	if err != nil {
		return nil, err
	}
	// From here on whoever deletes the container knows whom to end.
	self, err := program.Self()
	if err != nil {
		return nil, err
	}
	c.state.StandIn = store.Process(self)
	if err := c.dir.SaveState(c.state); err != nil {
		return nil, err
	}
	process, err := c.Process()
	if err != nil {
		return nil, err
	}
	s.joining = joining{container: c, process: process, stdio: s.stdio[:], ours: true}
	if s.joining.terminal, err = openTerminal(r, process, s.own); err != nil {
		return nil, err
	}
	switch slave := s.joining.terminal; {
	case slave == nil:
	case r.OwnTerminal:
		s.stdio[2].Close()
		s.joining.stdio, s.joining.own = s.stdio[:2], true
	default:
		for _, f := range s.stdio {
			f.Close() // nothing of the caller's stays open here: it waits for the end of its pipes
		}
		s.joining.stdio = []*os.File{slave, slave}
	}
	return &api.OpenResponse{}, nil
}

// Create implements api.ProcessService.
func (s *standIn) Create(ctx context.Context, _ *api.CreateRequest) (*api.CreateResponse, error) {
	c := s.joining.container
	hooks, err := c.hooks()
	if err != nil {
		return nil, err
	}
	if err := c.runHooks(ctx, "createContainer", hooks.CreateContainer, specs.StateCreating); err != nil {
		return nil, err
	}
	if err := s.joining.begin(func(k *call) error {
		_, err := k.Add(ctx, &api.AddRequest{ContainerId: c.state.ID, OwnTerminal: s.joining.own})
		return err
	}); err != nil {
		return nil, err
	}
	if s.joining.terminal != nil {
		s.joining.resize(ctx)
	}
	bundle, err := c.bundle()
	if err != nil {
		return nil, err
	}
	if err := s.first.showFiles(c.state.ID, bundle); err != nil {
		return nil, err
	}
	close(s.created)
	return &api.CreateResponse{}, nil
}
