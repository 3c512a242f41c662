package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"
)

// maxResources is the most bytes that are read as resources.
const maxResources = 1 << 20

var updateCommand = &cli.Command{
	Name:      "update",
	Usage:     "change the limits of a container; the size of its virtual machine stays",
	ArgsUsage: "ID",
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "resources", Aliases: []string{"r"},
			Usage: "file with an OCI linux.resources object; - is stdin. With it the other flags have no effect"},
		&cli.IntFlag{Name: "blkio-weight", Usage: "no effect: the guest has no disk"},
		&cli.StringFlag{Name: "cpu-period", Usage: "period of the CPU quota, in microseconds"},
		&cli.StringFlag{Name: "cpu-quota", Usage: "CPU time in each period, in microseconds; -1: no limit"},
		&cli.StringFlag{Name: "cpu-burst", Usage: "CPU time saved from earlier periods that may be used beyond the quota, in microseconds"},
		&cli.StringFlag{Name: "cpu-share", Usage: "weight among the containers of the host; 1024 is usual"},
		&cli.StringFlag{Name: "cpu-rt-period", Usage: "no effect: cgroup v1 only"},
		&cli.StringFlag{Name: "cpu-rt-runtime", Usage: "no effect: cgroup v1 only"},
		&cli.StringFlag{Name: "cpuset-cpus", Usage: "the host's CPUs to use: 0-3,7"},
		&cli.StringFlag{Name: "cpuset-mems", Usage: "the host's memory nodes to use"},
		&cli.StringFlag{Name: "kernel-memory", Hidden: true},
		&cli.StringFlag{Name: "kernel-memory-tcp", Hidden: true},
		&cli.StringFlag{Name: "memory", Usage: "memory limit, in bytes or as 64M; -1: none"},
		&cli.StringFlag{Name: "memory-reservation", Usage: "memory that is taken from the container last"},
		&cli.StringFlag{Name: "memory-swap", Usage: "limit of memory and swap together; -1: none"},
		&cli.StringFlag{Name: "cpu-idle", Usage: "1: the container gets the CPU time that nobody else wants; 0: it does not stand back"},
		&cli.IntFlag{Name: "pids-limit", Usage: "most processes and threads; -1: any number"},
		&cli.StringFlag{Name: "l3-cache-schema", Usage: "not supported: cache allocation of the host"},
		&cli.StringFlag{Name: "mem-bw-schema", Usage: "not supported: memory bandwidth of the host"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		if _, err := containerID(cmd); err != nil {
			return err
		}
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		resources, err := updatedResources(cmd)
		if err != nil {
			return err
		}
		return c.Update(ctx, resources)
	},
}

// updatedResources are the limits that the flags give, read as runc reads them, in its words where it refuses.
func updatedResources(cmd *cli.Command) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	var err error
	if path := cmd.String("resources"); path != "" {
		r, err = readResources(path)
	} else {
		r.CPU, err = updatedCPU(cmd)
		if err == nil {
			r.Memory, err = updatedMemory(cmd)
		}
		if cmd.IsSet("pids-limit") {
			limit := int64(cmd.Int("pids-limit"))
			r.Pids = &specs.LinuxPids{Limit: &limit}
		}
	}
	switch {
	case err != nil:
		return nil, err
	case cmd.String("l3-cache-schema") != "":
		//lint:ignore ST1005 a name
		return nil, errors.New("Intel RDT/CAT: l3 cache schema is not enabled")
	case cmd.String("mem-bw-schema") != "":
		//lint:ignore ST1005 a name
		return nil, errors.New("Intel RDT/MBA: memory bandwidth schema is not enabled")
	}
	//lint:ignore SA1019 deprecated, and warned of here
	if m := r.Memory; m != nil && (m.Kernel != nil || m.KernelTCP != nil) {
		slog.Warn("Kernel memory settings are ignored and will be removed")
	}
	return r, nil
}

func updatedCPU(cmd *cli.Command) (*specs.LinuxCPU, error) {
	cpu := &specs.LinuxCPU{Cpus: cmd.String("cpuset-cpus"), Mems: cmd.String("cpuset-mems")}
	signed := func(text string) (int64, error) { return strconv.ParseInt(text, 10, 64) }
	unsigned := func(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }
	return cpu, errors.Join(
		flagValue(cmd, "cpu-idle", signed, &cpu.Idle),
		flagValue(cmd, "cpu-burst", unsigned, &cpu.Burst),
		flagValue(cmd, "cpu-period", unsigned, &cpu.Period),
		flagValue(cmd, "cpu-rt-period", unsigned, &cpu.RealtimePeriod),
		flagValue(cmd, "cpu-share", unsigned, &cpu.Shares),
		flagValue(cmd, "cpu-quota", signed, &cpu.Quota),
		flagValue(cmd, "cpu-rt-runtime", signed, &cpu.RealtimeRuntime),
	)
}

func updatedMemory(cmd *cli.Command) (*specs.LinuxMemory, error) {
	memory := &specs.LinuxMemory{}
	return memory, errors.Join(
		flagValue(cmd, "memory", parseLimit, &memory.Limit),
		flagValue(cmd, "memory-swap", parseLimit, &memory.Swap),
		flagValue(cmd, "kernel-memory", parseLimit, &memory.Kernel), //lint:ignore SA1019 it is refused when it is wrong, and has no effect else
		flagValue(cmd, "kernel-memory-tcp", parseLimit, &memory.KernelTCP),
		flagValue(cmd, "memory-reservation", parseLimit, &memory.Reservation),
	)
}

// flagValue sets *value to what the flag says, and leaves it when the flag says nothing.
func flagValue[T int64 | uint64](cmd *cli.Command, name string, parse func(string) (T, error), value **T) error {
	text := cmd.String(name)
	if text == "" {
		return nil
	}
	n, err := parse(text)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", name, err)
	}
	*value = &n
	return nil
}

// parseLimit reads a limit in bytes: -1 for none, else a size.
func parseLimit(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	return parseSize(text)
}

// parseSize reads a number of bytes as Docker's go-units does: "64M", "1.5 GiB", "10kb", in powers of 1024.
func parseSize(text string) (int64, error) {
	end := strings.LastIndexAny(text, "0123456789. ") + 1
	if end == 0 {
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	size, err := strconv.ParseFloat(strings.TrimSuffix(text[:end], " "), 64)
	if err != nil {
		return 0, err
	}
	if size < 0 {
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	suffix := strings.ToLower(text[end:])
	power := strings.IndexByte("bkmgtp", append([]byte(suffix), 'b')[0])
	switch rest := suffix[min(len(suffix), 1):]; {
	case power < 0, power == 0 && rest != "", rest != "" && rest != "b" && rest != "ib":
		return 0, fmt.Errorf("invalid suffix: '%s'", suffix)
	}
	bytes := size * float64(int64(1)<<(10*power))
	if !(bytes < 1<<63) {
		return 0, fmt.Errorf("invalid size: '%s'", text)
	}
	return int64(bytes), nil
}

func readResources(path string) (*specs.LinuxResources, error) {
	file := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		file = f
	}
	r := &specs.LinuxResources{}
	if err := json.NewDecoder(io.LimitReader(file, maxResources)).Decode(r); err != nil {
		return nil, fmt.Errorf("decode resources: %w", err)
	}
	return r, nil
}
