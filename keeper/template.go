package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/resource"
	"github.com/hyper-runtime/hyper/sandbox"
)

// TemplateMakerVerb is the hidden verb of the process that makes a template in the background.
const TemplateMakerVerb = "template-maker"

// makerRequest is what a template maker reads from its stdin.
type makerRequest struct {
	Templates *hypervisor.Templates
	Machine   hypervisor.Machine
	Timeout   time.Duration // hang guard
}

// wantTemplate starts a maker for the machine of a container if that has no template. It does not wait for it: the next
// container is the one that is served.
func wantTemplate(cfg config.Config, size resource.VM) error {
	if cfg.Template == "off" {
		return nil
	}
	request, err := newMakerRequest(cfg, size)
	if err != nil {
		return err
	}
	if wanted, err := request.Templates.Wants(request.Machine); err != nil || !wanted {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start template maker: %w", err)
	}
	defer r.Close()
	defer w.Close()
	cmd := selfCommand(TemplateMakerVerb)
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start template maker: %w", err)
	}
	go cmd.Wait() // if we live as long
	// It fits into the pipe: nobody waits here.
	if err := json.NewEncoder(w).Encode(request); err != nil {
		return fmt.Errorf("start template maker: %w", err)
	}
	return nil
}

func newMakerRequest(cfg config.Config, size resource.VM) (makerRequest, error) {
	machine, _, err := newMachine(cfg, size)
	return makerRequest{templates(cfg), machine, time.Duration(cfg.BootTimeoutSeconds) * time.Second}, err
}

// TemplateMaker is the life of a template maker. Why it fails is kept with the templates.
func TemplateMaker() int {
	var request makerRequest
	if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
		return 1
	}
	// Whatever runs on this host comes first. The group is this process, with all its threads, as it leads a session.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, 19); err != nil {
		return 1
	}
	if err := request.run(context.Background()); err != nil {
		return 1
	}
	return 0
}

func (r makerRequest) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	return sandbox.MakeTemplate(ctx, r.Templates, r.Machine)
}

// Templates are the templates that the configuration's directory has.
func Templates(cfg config.Config) hypervisor.Templates {
	return hypervisor.Templates{Dir: cfg.TemplateDir, MaxMiB: cfg.TemplateMaxMiB}
}

// MakeTemplate makes a template of the machine that a container of this size gets; zeros mean a container without
// limits.
func MakeTemplate(ctx context.Context, cfg config.Config, vcpus, memoryMiB int) error {
	size, err := vmSize(cfg, nil)
	if err != nil {
		return err
	}
	if vcpus != 0 {
		size.VCPUs = vcpus
	}
	if memoryMiB != 0 {
		size.MemoryMiB = memoryMiB
	}
	cfg.Template = "auto"
	request, err := newMakerRequest(cfg, size)
	if err != nil {
		return err
	}
	return request.run(ctx)
}
