package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"
)

// readUpdate reads a command line of the update verb.
func readUpdate(t *testing.T, args ...string) (*specs.LinuxResources, error) {
	t.Helper()
	var r *specs.LinuxResources
	command := *updateCommand
	command.Writer, command.ErrWriter = t.Output(), t.Output()
	command.Action = func(_ context.Context, cmd *cli.Command) (err error) {
		r, err = updatedResources(cmd)
		return err
	}
	err := command.Run(t.Context(), append([]string{"update"}, args...))
	return r, err
}

func TestUpdateFlags(t *testing.T) {
	tests := []struct{ args, want string }{
		{"", `{"memory":{},"cpu":{}}`},
		{"--memory 64M --memory-swap -1 --memory-reservation 1", `{"memory":{"limit":67108864,"reservation":1,"swap":-1},"cpu":{}}`},
		{"--cpu-period 1 --cpu-quota -1 --cpu-share 3 --cpu-burst 0 --cpu-idle 1",
			`{"memory":{},"cpu":{"shares":3,"quota":-1,"burst":0,"period":1,"idle":1}}`},
		{"--cpu-rt-period 1 --cpu-rt-runtime -2", `{"memory":{},"cpu":{"realtimeRuntime":-2,"realtimePeriod":1}}`},
		{"--cpuset-cpus 0-1 --cpuset-mems=0", `{"memory":{},"cpu":{"cpus":"0-1","mems":"0"}}`},
		{"--kernel-memory 1 --kernel-memory-tcp 2", `{"memory":{"kernel":1,"kernelTCP":2},"cpu":{}}`},
		{"--pids-limit 0", `{"memory":{},"cpu":{},"pids":{"limit":0}}`},
		{"--pids-limit -1 --blkio-weight 10", `{"memory":{},"cpu":{},"pids":{"limit":-1}}`},

		{"--memory x", `invalid value for memory: invalid size: 'x'`},
		{"--memory -2", `invalid value for memory: invalid size: '-2'`},
		{"--memory-swap 5xx", `invalid value for memory-swap: invalid suffix: 'xx'`},
		{"--kernel-memory x", `invalid value for kernel-memory: invalid size: 'x'`},
		{"--cpu-quota x", `invalid value for cpu-quota: strconv.ParseInt: parsing "x": invalid syntax`},
		{"--cpu-share -1", `invalid value for cpu-share: strconv.ParseUint: parsing "-1": invalid syntax`},
		{"--cpu-idle x", `invalid value for cpu-idle: strconv.ParseInt: parsing "x": invalid syntax`},
		{"--l3-cache-schema x", `Intel RDT/CAT: l3 cache schema is not enabled`},
		{"--mem-bw-schema x", `Intel RDT/MBA: memory bandwidth schema is not enabled`},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			r, err := readUpdate(t, strings.Fields(test.args)...)
			got, _ := json.Marshal(r)
			if err != nil {
				got = []byte(err.Error())
			}
			if string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
	if _, err := readUpdate(t, "--pids-limit", "x"); err == nil {
		t.Error("took x for a number")
	}
}

func TestUpdateFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resources.json")
	if err := os.WriteFile(file, []byte(`{"cpu":{"quota":5},"unified":{"memory.high":"1"}} rest`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := readUpdate(t, "-r", file, "--memory", "5M", "--pids-limit", "3") // the file counts alone
	got, _ := json.Marshal(r)
	if want := `{"cpu":{"quota":5},"unified":{"memory.high":"1"}}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	if _, err := readUpdate(t, "-r", file, "--l3-cache-schema", "x"); err == nil {
		t.Error("took a cache schema")
	}
	if _, err := readUpdate(t, "--resources", file+".gone"); err == nil {
		t.Error("took a file that is not there")
	}
}

func TestParseSize(t *testing.T) {
	sizes := map[string]int64{
		"0": 0, "5": 5, "5b": 5, "5B": 5, "1k": 1024, "1kb": 1024, "1KiB": 1024, "1.5 M": 1536 << 10, "2g": 2 << 30, "1TB": 1 << 40,
		"1P": 1 << 50, "5 ": 5, "1e3": 1000, ".5k": 512,
	}
	for text, want := range sizes {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "k", "-1", "5bb", "5x", "5kx", "5kbi", "5kibs", "1 2", "1..2", "9000P", "5µ"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
