package sandbox

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// request is what the agent is asked to create.
func (g *guestContainer) request(id string) (*protocol.CreateRequest, error) {
	text, program, err := encodeWith(g.spec.Process, g.spec)
	if err != nil {
		return nil, err
	}
	r := &protocol.CreateRequest{
		ContainerId: id, Spec: text, Shm: g.shm, Program: program, Root: g.spec.Root.Path, Cgroup: g.spec.Linux.CgroupsPath,
	}
	if g.spec.Hooks != nil {
		for _, hook := range g.spec.Hooks.StartContainer {
			r.StartContainerHooks = append(r.StartContainerHooks, hook.Path)
		}
	}
	return r, nil
}

// encodeWith returns the JSON of whole, which has the process in it, and what the agent has to know of the process. Where
// the process is homeless, it gets a place for its home in the JSON: it is the guest that knows which.
func encodeWith(process *specs.Process, whole any) ([]byte, *protocol.Program, error) {
	if len(process.Args) == 0 {
		return nil, nil, errors.New("a process without args")
	}
	program := &protocol.Program{Command: process.Args[0], Terminal: process.Terminal}
	place := ""
	if homeless(process.Env) {
		place = rand.Text() // stands nowhere else
		process.Env = append(slices.DeleteFunc(slices.Clone(process.Env), isHome), "HOME="+place)
	}
	text, err := json.Marshal(whole)
	if err != nil {
		return nil, nil, fmt.Errorf("encode for the guest: %w", err)
	}
	if place != "" {
		before, after, _ := bytes.Cut(text, []byte(place))
		text = append(before, after...)
		program.Home = &protocol.Home{Offset: uint32(len(before)), Uid: process.User.UID}
	}
	return text, program, nil
}

func isHome(e string) bool { return strings.HasPrefix(e, "HOME=") }

// homeless says whether an environment has no home directory, or an empty one where it is set last.
func homeless(env []string) bool {
	last := "HOME="
	for _, e := range env {
		if isHome(e) {
			last = e
		}
	}
	return last == "HOME="
}
