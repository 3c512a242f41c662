// Command bench measures hyper, runc and crun side by side and prints the tables of docs/performance.md.
//
// A time on a busy machine says little, so every figure stands beside another of the same run: the subjects of a row
// are measured in turn, round after round, and what is compared are their medians and their minima.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// rows are measured and printed in this order. A row is one small function; this is the place to add it.
var rows = []row{
	{"state", timeState},
	{"create", timeCreate},
	{"run true", timeRun},
	{"run true with a network", timeNetwork},
	{"exec true", timeExec},
	{"run true, 20 at once", timeMany},
	{"docker run --rm true", timeDocker},
	{"cold boot to agent ready", timeBoot},
	{"cold boot to agent ready", timeKernels},
	{"clone to agent ready", timeClone},
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == peerMode {
		if err := servePeer(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	// Threads have mount namespaces (see hideUnified), and what a thread starts begins in its own.
	runtime.LockOSThread()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	hyper := flag.String("hyper", "bin/hyper", "the hyper to measure")
	config := flag.String("config", "build/config.toml", "its configuration, without settings of templates")
	others := flag.String("others", "build/*.toml", "configurations, some with other kernels; a pattern")
	rounds := flag.Int("rounds", 9, "samples of each time")
	idle := flag.Int("idle", 5, "sandboxes whose memory is measured")
	only := flag.String("only", "", "measure the rows alone that this regular expression finds, and network and memory if it finds those words")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	b, err := newBench(ctx, *hyper, *config, *others)
	if err != nil {
		return err
	}
	defer b.close(&err)

	if err := b.describe(); err != nil {
		return err
	}
	fmt.Print("\n| what | of | ms: median (min) | beside | ms: median (min) | ratio (of min) |\n|---|---|--:|---|--:|--:|\n")
	for _, r := range rows {
		if !wanted.MatchString(r.name) {
			continue
		}
		if err := b.row(r, *rounds); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if wanted.MatchString("network") {
		if err := b.network(*rounds); err != nil {
			return fmt.Errorf("network: %w", err)
		}
	}
	if wanted.MatchString("memory") {
		return b.memory(*idle)
	}
	return nil
}

// describe prints what is measured on what: the host, the guests' kernels, and the first line of each program's version.
func (b *bench) describe() error {
	uname, err := b.bundle("uname", "-r")
	if err != nil {
		return err
	}
	m := b.machines[0]
	lines := [][]string{
		{"host's CPUs", "nproc"},
		{"host's load before the run", "cut", "-d", " ", "-f", "1", "/proc/loadavg"},
		{"guest's accelerator and MiB", "echo", string(m.Accel), fmt.Sprint(m.MemoryMiB)},
		{"QEMU", m.QEMU, "--version"}, {"runc", "runc", "--version"}, {"crun", "crun", "--version"}, {"docker", "docker", "--version"},
	}
	for _, m := range b.machines {
		lines = append(lines, append([]string{m.kernel + " kernel"}, b.hyperWith("", m.config).verb("run", "--bundle", uname, b.id())...))
	}
	for _, line := range lines {
		if err := b.say(line[0], line[1:]); err != nil {
			return err
		}
	}
	return nil
}

// say prints the first line of a command's output.
func (b *bench) say(name string, argv []string) error {
	text, err := b.command(argv...).Output() // warnings are not a version
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, text)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	fmt.Printf("- %s: %s\n", name, first)
	return nil
}
