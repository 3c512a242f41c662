package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// timeDocker: docker's client, dockerd, containerd and its shim, and the runtime. No network, no image to fetch.
func timeDocker(b *bench) (subjects []subject, err error) {
	client := []string{"docker", "--config", b.path("client"), "--host", "unix://" + b.path("d.sock")}
	if err := b.startDocker(client); err != nil {
		return nil, err
	}
	for _, r := range b.runtimes() {
		argv := append(client[:len(client):len(client)], "run", "--rm", "--network", "none", "--runtime", r.name, "bench", "true")
		subjects = append(subjects, subject{r.name, func() (time.Duration, error) { return b.timed(argv...) }})
	}
	return subjects, nil
}

// startDocker starts a docker engine of our own, which the row's end stops, with an image of our root file system.
func (b *bench) startDocker(client []string) error {
	crun, err := exec.LookPath("crun")
	if err != nil {
		return err
	}
	group := filepath.Base(b.dir)
	runtime := func(config string) map[string]any {
		return map[string]any{"path": b.hyper, "runtimeArgs": []string{"--config", config}}
	}
	settings, err := json.Marshal(map[string]any{
		"data-root": b.path("d"), "exec-root": b.path("x"), "pidfile": b.path("d.pid"), "hosts": client[len(client)-1:],
		"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
		"cgroup-parent": "/" + group, "exec-opts": []string{"native.cgroupdriver=cgroupfs"},
		"runtimes": map[string]any{
			"hyper":      runtime(b.machines[0].config),
			"hyper-cold": runtime(b.machines[0].coldConfig),
			"crun":       map[string]any{"path": crun},
		},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(b.path("daemon.json"), settings, 0o600); err != nil {
		return err
	}
	b.later(func() error { return removeCgroups(group) })
	if err := b.startDaemon("dockerd", "--config-file", b.path("daemon.json")); err != nil {
		return err
	}
	_, err = b.timed(append([]string{"sh", "-c", `tar -C "$0" -c . | "$@" import - bench`, b.path("rootfs")}, client...)...)
	return err
}

// startDaemon starts a daemon and waits until it says that it is ready (sd_notify(3)). The row's end stops it.
func (b *bench) startDaemon(name string, args ...string) error {
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: b.path("notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer ready.Close()
	log, err := os.Create(b.path(name + ".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+b.path("notify"))
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() {
		exited <- cmd.Wait()
		ready.Close() // ends Read
	}()
	b.later(func() error {
		cmd.Process.Signal(unix.SIGTERM) // an error means that it has exited
		return <-exited
	})
	message := make([]byte, 4096)
	for {
		n, err := ready.Read(message)
		if err != nil {
			said, _ := os.ReadFile(log.Name()) // that it ended is the news
			return fmt.Errorf("%s ended before it was ready: %s", name, said)
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return nil
		}
	}
}

// removeCgroups removes the cgroup of that name from all trees: the engine makes it, and leaves it.
func removeCgroups(name string) (err error) {
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + name) // the patterns are well formed
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, path := range append(v2, v1...) {
		if strings.HasPrefix(path, unified) {
			continue // in our own tmpfs (see hideUnified)
		}
		if e := os.Remove(path); !errors.Is(e, os.ErrNotExist) { // one tree can have two names
			err = errors.Join(err, e)
		}
	}
	return err
}
