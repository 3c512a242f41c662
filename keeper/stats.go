package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/keeper/api"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
)

func (s *session) Stats(ctx context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	c, err := s.sandbox.Container(r.ContainerId)
	if errors.Is(err, sandbox.ErrNoContainer) && r.WaitMilliseconds > 0 {
		return &api.StatsResponse{Exited: true}, nil // it has, and is deleted already
	}
	if err != nil {
		return nil, err
	}
	files, exited, err := c.Stats(ctx, time.Duration(r.WaitMilliseconds)*time.Millisecond, r.OomKills)
	return &api.StatsResponse{Files: files, Exited: exited}, err
}

// Event is a line of what the events verb prints, as runc has it (its types/events.go).
type Event struct {
	Type string          `json:"type"` // "stats" or "oom"
	ID   string          `json:"id"`
	Data *resource.Stats `json:"data,omitempty"`
}

// Stats is the event with the container's figures of now.
func (c *Container) Stats(ctx context.Context) (Event, error) {
	if c.Status() == specs.StateStopped {
		return Event{}, c.notRunning()
	}
	var f figures
	err := c.ask(func(k *call) (err error) {
		f, err = k.figures(ctx, c.state.ID, 0, 0)
		return err
	})
	if f.exited || errors.Is(err, ErrKeeperGone) {
		return Event{}, c.notRunning()
	}
	return Event{Type: "stats", ID: c.state.ID, Data: &f.Stats}, err
}

// Events hands out an event with figures after each interval, and one for every time that processes of the container
// were seen to be killed because there was no memory. It returns nil when the container stops
// or ctx ends.
func (c *Container) Events(ctx context.Context, interval time.Duration, emit func(Event) error) error {
	if interval <= 0 {
		return errors.New("duration interval must be greater than 0")
	}
	if c.Status() == specs.StateStopped {
		return c.notRunning()
	}
	err := c.ask(func(k *call) error { return c.follow(ctx, k, interval, emit) })
	if errors.Is(err, ErrKeeperGone) || ctx.Err() != nil {
		return nil
	}
	return err
}

// follow is Events on a connection.
func (c *Container) follow(ctx context.Context, k *call, interval time.Duration, emit func(Event) error) error {
	f, err := k.figures(ctx, c.state.ID, 0, 0)
	next := time.Now().Add(interval)
	for err == nil && !f.exited {
		killed := f.OOMKills
		if f, err = k.figures(ctx, c.state.ID, max(time.Until(next), time.Millisecond), killed); err != nil {
			return err
		}
		if f.OOMKills > killed {
			if err := emit(Event{Type: "oom", ID: c.state.ID}); err != nil {
				return err
			}
		}
		if !f.exited && !time.Now().Before(next) {
			if err := emit(Event{Type: "stats", ID: c.state.ID, Data: &f.Stats}); err != nil {
				return err
			}
			next = time.Now().Add(interval)
		}
	}
	return err
}

// notRunning is what runc says of a container that has no figures any more.
func (c *Container) notRunning() error {
	return fmt.Errorf("container with id %s is not running", c.state.ID)
}

// figures are a container's, and whether they are the last ones.
type figures struct {
	resource.Stats
	exited bool
}

// figures asks for them, to be told after wait, or before if something happens.
func (c *call) figures(ctx context.Context, id string, wait time.Duration, oomKills uint64) (figures, error) {
	const most = time.Hour // the keeper's own bound is lower
	answer, err := c.KeeperService.Stats(ctx, &api.StatsRequest{
		ContainerId: id, WaitMilliseconds: uint32(min(wait, most).Milliseconds()), OomKills: oomKills,
	})
	if err != nil {
		return figures{}, err
	}
	stats, err := resource.ParseStats(answer.Files)
	return figures{stats, answer.Exited}, err
}
