package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestUpdate(t *testing.T) {
	limited, err := ParseStats(guestFiles()) // 64 MiB of memory, half a CPU
	if err != nil {
		t.Fatal(err)
	}
	free := Stats{CPUQuota: -1, CPUPeriod: 100000}
	free.Memory.Usage.Limit = Unlimited
	tests := []struct {
		name string
		now  Stats
		r    string
		want string // JSON, or the error
	}{
		{"nothing", limited, `{}`, `{}`},
		{"zeros of an engine", limited, `{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"period":0}}`,
			`{"memory":{},"cpu":{"shares":0,"quota":0,"period":0}}`},
		{"memory", limited, `{"memory":{"limit":5,"reservation":4}}`, `{"memory":{"limit":5,"reservation":4}}`},
		{"no memory limit", limited, `{"memory":{"limit":-1}}`, `{"memory":{"limit":-1,"swap":-1}}`},
		{"swap", limited, `{"memory":{"swap":67108865}}`, `{"memory":{"limit":67108864,"swap":67108865}}`},
		{"no swap limit", limited, `{"memory":{"swap":-1}}`, `{"memory":{"swap":-1}}`},
		{"both", limited, `{"memory":{"limit":5,"swap":6}}`, `{"memory":{"limit":5,"swap":6}}`},
		{"swap too small", limited, `{"memory":{"swap":5}}`, `memory+swap limit should be >= memory limit`},
		{"swap without a limit", free, `{"memory":{"swap":5}}`, `unable to set swap limit without memory limit`},
		{"swap and no limit", limited, `{"memory":{"limit":-1,"swap":5}}`, `unable to set swap limit without memory limit`},
		{"in use", limited, `{"memory":{"limit":1048576,"checkBeforeUpdate":true}}`, `rejecting memory limit 1048576 <= usage 1048576`},
		{"in use with swap", limited, `{"memory":{"limit":1,"swap":2,"checkBeforeUpdate":true}}`,
			`rejecting memory+swap limit 2 <= usage 1048576`},
		{"just free", limited, `{"memory":{"limit":1048577,"checkBeforeUpdate":true}}`, `{"memory":{"limit":1048577}}`},
		{"quota", limited, `{"cpu":{"quota":1}}`, `{"cpu":{"quota":1,"period":100000}}`},
		{"no quota", limited, `{"cpu":{"quota":-1}}`, `{"cpu":{"quota":-1,"period":100000}}`},
		{"period", limited, `{"cpu":{"period":900000}}`, `{"cpu":{"quota":50000,"period":900000}}`},
		{"period without a quota", free, `{"cpu":{"period":900000}}`, `{"cpu":{"quota":-1,"period":900000}}`},
		{"quota of a silent guest", Stats{}, `{"cpu":{"quota":1}}`, `{"cpu":{"quota":1}}`},
		{"idle and burst", limited, `{"cpu":{"idle":1,"burst":0}}`, `{"cpu":{"burst":0,"idle":1}}`},
		{"idle and shares", limited, `{"cpu":{"idle":1,"shares":5}}`, `{"cpu":{"idle":1}}`},
		{"not idle", limited, `{"cpu":{"idle":0,"shares":5}}`, `{"cpu":{"shares":5,"idle":0}}`},
		{"pids", limited, `{"pids":{"limit":7}}`, `{"pids":{"limit":7}}`},
		{"no pids", limited, `{"pids":{"limit":0}}`, `{"pids":{"limit":1}}`},
		{"any pids", limited, `{"pids":{"limit":-5}}`, `{"pids":{"limit":-1}}`},
		{"pids unset", limited, `{"pids":{}}`, `{}`},
		{"what stays", limited, `{"devices":[{"allow":false}],"hugepageLimits":[{"pageSize":"2MB","limit":1}],"blockIO":{"weight":10},
			"unified":{"memory.high":"5"}}`, `{"unified":{"memory.high":"5"}}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var r specs.LinuxResources
			if err := json.Unmarshal([]byte(test.r), &r); err != nil {
				t.Fatal(err)
			}
			before, _ := json.Marshal(r)
			u, err := Update(&r, test.now)
			got, _ := json.Marshal(u)
			if err != nil {
				got = []byte(err.Error())
			}
			if string(got) != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if after, _ := json.Marshal(r); string(after) != string(before) {
				t.Errorf("the question was changed: %s", after)
			}
		})
	}
}

// FuzzResources: no resources make the computations fail, size a VM that cannot be, or set a limit on the host that a
// VM does not fit in.
func FuzzResources(f *testing.F) {
	f.Add(`{"memory":{"limit":33554432,"reservation":25165824,"swap":-1,"checkBeforeUpdate":true},"pids":{"limit":0},
		"cpu":{"shares":100,"quota":500000,"period":1000000,"burst":1,"idle":-1,"cpus":"0-3,7","mems":"0"}}`)
	f.Add(`{"memory":{"limit":9223372036854775807},"cpu":{"quota":9223372036854775807,"period":1}}`)
	f.Add(`{"memory":{"limit":-9223372036854775808,"swap":-9223372036854775808},"cpu":{"quota":-1,"period":18446744073709551615}}`)
	f.Add(`{"memory":null,"cpu":{},"pids":{}}`)
	now, err := ParseStats(guestFiles())
	if err != nil {
		f.Fatal(err)
	}
	host := Host{CPUs: 8, MemoryMiB: 16384}
	f.Fuzz(func(t *testing.T, text string) {
		var r specs.LinuxResources
		if json.Unmarshal([]byte(text), &r) != nil {
			return
		}
		vm := Size(&r, Defaults{VCPUs: 1, MemoryMiB: 2048, OverheadMiB: 64}, host)
		if vm.VCPUs < 1 || vm.VCPUs > host.CPUs || vm.MemoryMiB < minVMMiB || vm.MemoryMiB > host.MemoryMiB {
			t.Errorf("VM %+v", vm)
		}
		l := HostLimits(&r, vm, 32)
		if l.MemoryBytes > 0 && l.MemoryBytes < int64(vm.MemoryMiB)*mib {
			t.Errorf("the VM %+v does not fit into %d bytes", vm, l.MemoryBytes)
		}
		if w := weight(l.CPUShares); w < 1 || w > 10000 {
			t.Errorf("%d shares are weight %d", l.CPUShares, w)
		}
		if _, err := l.properties(true); err != nil && !strings.Contains(err.Error(), "is not a list") {
			t.Error(err)
		}
		u, err := Update(&r, now)
		if err != nil {
			return
		}
		if m := u.Memory; m != nil && m.Swap != nil && *m.Swap > 0 && (m.Limit == nil || *m.Swap < *m.Limit) {
			t.Errorf("swap %d without a limit below it", *m.Swap)
		}
	})
}
