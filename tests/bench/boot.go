package main

import (
	"time"

	"github.com/hyper-runtime/hyper/agent/client"
)

// ready starts QEMU, with nothing else of hyper, until the agent answers.
func (b *bench) ready(name string, m machine, cold bool) subject {
	return subject{name, func() (time.Duration, error) {
		begin := time.Now()
		v, err := b.launch(m, cold)
		if err != nil {
			return 0, err
		}
		defer v.close()
		err = client.Handshake(b.ctx, v.vm.Agent())
		return time.Since(begin), err
	}}
}

// timeBoot: what of a create without a template is QEMU's start and the guest's boot.
func timeBoot(b *bench) ([]subject, error) {
	creates, err := timeCreate(b)
	if err != nil {
		return nil, err
	}
	for i := range creates {
		creates[i].name += " create"
	}
	return append([]subject{b.ready("bare boot", b.machines[0], true)}, creates[1:]...), nil // not the clone's
}

// timeKernels: the same with the other kernels that are there.
func timeKernels(b *bench) (subjects []subject, err error) {
	for _, m := range b.machines {
		subjects = append(subjects, b.ready("bare boot, "+m.kernel+" kernel", m, true))
	}
	return subjects, nil
}

// timeClone: the same from a template.
func timeClone(b *bench) (subjects []subject, err error) {
	return []subject{b.ready("bare clone", b.machines[0], false), b.ready("bare boot", b.machines[0], true)}, nil
}
