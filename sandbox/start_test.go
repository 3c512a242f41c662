package sandbox

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

// overtaken is an agent whose answer to Start comes after the process that it started has exited.
type overtaken struct {
	protocol.AgentService
	started, answer chan struct{}
}

func (a *overtaken) Create(context.Context, *protocol.CreateRequest) (*protocol.CreateResponse, error) {
	return &protocol.CreateResponse{Pid: 1}, nil
}

func (a *overtaken) Start(context.Context, *protocol.StartRequest) (*protocol.StartResponse, error) {
	close(a.started)
	<-a.answer
	return &protocol.StartResponse{}, nil
}

func (a *overtaken) Wait(context.Context, *protocol.WaitRequest) (*protocol.WaitResponse, error) {
	<-a.started
	return &protocol.WaitResponse{ExitCode: 3}, nil
}

// Who hears of the exit may end the VM: then a start that is not answered yet would fail.
func TestExitComesAfterStart(t *testing.T) {
	agent := &overtaken{started: make(chan struct{}), answer: make(chan struct{})}
	c := &Container{sandbox: &Sandbox{agent: &client.Client{AgentService: agent}, log: slog.New(slog.DiscardHandler)}}
	guest := &guestContainer{spec: guestSpec{Spec: specs.Spec{
		Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{}, Linux: &specs.Linux{},
	}}}
	if err := c.create(t.Context(), guest, Stdio{}); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() { result <- c.Start(t.Context()) }()
	select {
	case <-c.Init().Exited():
		t.Error("the exit is known before the start is answered")
	case <-time.After(100 * time.Millisecond): // that nothing happens can only be seen by waiting
	}
	close(agent.answer)
	if err := <-result; err != nil {
		t.Error(err)
	}
	<-c.Init().Exited()
	if status := c.Init().Status(); status != 3 {
		t.Errorf("exited with %d", status)
	}
	if status := c.Status(); status != specs.StateStopped {
		t.Errorf("status %s", status)
	}
	if err := c.Start(t.Context()); !errors.Is(err, ErrHasStopped) {
		t.Errorf("started again: %v", err)
	}
}
