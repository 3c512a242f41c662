package main

import (
	"runtime"
	"time"
)

// timeState: the runtime's command line alone, as engines call it again and again.
func timeState(b *bench) ([]subject, error) {
	return b.onStarted(func(r ociRuntime, id string) []string { return r.verb("state", id) })
}

// timeExec: one process more in a running container, until the command line has its status.
func timeExec(b *bench) ([]subject, error) {
	subjects, err := b.onStarted(func(r ociRuntime, id string) []string { return r.verb("exec", id, "true") })
	if err != nil {
		return nil, err
	}
	bare, err := b.bareExec()
	return append(subjects, bare), err
}

// onStarted has each runtime run a command line on a container that sleeps.
func (b *bench) onStarted(argv func(r ociRuntime, id string) []string) (subjects []subject, err error) {
	for _, r := range b.runtimes() {
		c, err := b.started(r)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, subject{r.name, func() (time.Duration, error) { return b.timed(argv(r, c.id)...) }})
	}
	return subjects, nil
}

// timeCreate: of a VM, its boot and the container in it, held before its first instruction.
func timeCreate(b *bench) (subjects []subject, err error) {
	bundle, err := b.bundle("true")
	if err != nil {
		return nil, err
	}
	for _, r := range b.runtimes() {
		subjects = append(subjects, subject{r.name, func() (time.Duration, error) {
			c, err := b.create(r, bundle)
			if err != nil {
				return 0, err
			}
			return c.taken, c.remove()
		}})
	}
	return subjects, nil
}

// timeRun: create, start, wait and delete in one.
func timeRun(b *bench) (subjects []subject, err error) {
	bundle, err := b.bundle("true")
	if err != nil {
		return nil, err
	}
	for _, r := range b.runtimes() {
		subjects = append(subjects, subject{r.name, func() (time.Duration, error) {
			return b.timed(r.verb("run", "--bundle", bundle, b.id())...)
		}})
	}
	bare, err := b.bareRun(bundle)
	return append(subjects, bare), err
}

// timeMany: twenty runs at once, and what one of them takes of all CPUs, beside one run alone. 1 means that many are as
// quick as one after the other on each CPU.
func timeMany(b *bench) ([]subject, error) {
	const many = 20
	hyper := b.runtimes()[0]
	bundle, err := b.bundle("true")
	if err != nil {
		return nil, err
	}
	run := func() []string { return hyper.verb("run", "--bundle", bundle, b.id()) }
	return []subject{
		{"hyper, time x CPUs / 20", func() (time.Duration, error) {
			begin := time.Now()
			var waits []func() error
			for range many {
				wait, err := b.start(run()...)
				if err != nil {
					return 0, err
				}
				waits = append(waits, wait)
			}
			for _, wait := range waits {
				if err := wait(); err != nil {
					return 0, err
				}
			}
			return time.Since(begin) * time.Duration(runtime.NumCPU()) / many, nil
		}},
		{"hyper, one alone", func() (time.Duration, error) { return b.timed(run()...) }},
	}, nil
}
