package resource

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// files of a cgroup as a guest's Linux 6.12 writes them, shortened.
func guestFiles() map[string][]byte {
	return map[string][]byte{
		"cpu.stat":                 []byte("usage_usec 1234\nuser_usec 1000\nsystem_usec 234\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 7\nnr_throttled 2\nthrottled_usec 500\nnr_bursts 0\nburst_usec 0\n"),
		"cpu.max":                  []byte("50000 100000\n"),
		"cpu.pressure":             []byte("some avg10=1.50 avg60=0.25 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
		"memory.current":           []byte("1048576\n"),
		"memory.max":               []byte("67108864\n"),
		"memory.peak":              []byte("2097152\n"),
		"memory.swap.current":      []byte("4096\n"),
		"memory.swap.max":          []byte("1000\n"),
		"memory.stat":              []byte("anon 57344\nfile 8192\nslab_reclaimable 3\n"),
		"memory.events":            []byte("low 0\nhigh 0\nmax 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
		"pids.current":             []byte("3\n"),
		"pids.max":                 []byte("20\n"),
		"io.stat":                  []byte("254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n7:0 \n"),
		"hugetlb.2MB.current":      []byte("1\n"),
		"hugetlb.2MB.rsvd.current": []byte("2097152\n"),
		"hugetlb.2MB.events":       []byte("max 5\n"),
	}
}

func TestStatsJSON(t *testing.T) {
	s, err := ParseStats(guestFiles())
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cpu":{"usage":{"total":1234000,"kernel":234000,"user":1000000},` +
		`"throttling":{"periods":7,"throttledPeriods":2,"throttledTime":500000},` +
		`"psi":{"some":{"avg10":1.5,"avg60":0.25,"avg300":0,"total":77},"full":{"avg10":0,"avg60":0,"avg300":0,"total":0}}},` +
		`"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,` +
		`"memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},` +
		`"memory":{"cache":8192,"usage":{"limit":67108864,"usage":1048576,"max":2097152,"failcnt":0},` +
		`"swap":{"limit":67109864,"usage":1052672,"failcnt":0},"kernel":{"limit":0,"failcnt":0},` +
		`"kernelTCP":{"limit":0,"failcnt":0},"raw":{"anon":57344,"file":8192,"slab_reclaimable":3}},` +
		`"pids":{"current":3,"limit":20},` +
		`"blkio":{"ioServiceBytesRecursive":[{"major":254,"op":"Read","value":4096},{"major":254,"op":"Write"}],` +
		`"ioServicedRecursive":[{"major":254,"op":"Read","value":1},{"major":254,"op":"Write"}]},` +
		`"hugetlb":{"2MB":{"usage":2097152,"failcnt":5}},"intel_rdt":{},"network_interfaces":null}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if s.OOMKills != 1 || s.CPUQuota != 50000 || s.CPUPeriod != 100000 {
		t.Errorf("%d OOM kills, quota %d of %d", s.OOMKills, s.CPUQuota, s.CPUPeriod)
	}
}

func TestStatsWithoutLimits(t *testing.T) {
	s, err := ParseStats(map[string][]byte{
		"memory.max": []byte("max\n"), "memory.current": []byte("5\n"), "memory.swap.current": []byte("0\n"),
		"memory.swap.max": []byte("max\n"), "pids.max": []byte("max\n"), "cpu.max": []byte("max 100000\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Memory; m.Usage.Limit != math.MaxUint64 || m.Swap.Limit != math.MaxUint64 || m.Swap.Usage != 5 {
		t.Errorf("memory %+v", m)
	}
	if s.Pids.Limit != 0 || s.CPUQuota != -1 || s.CPUPeriod != 100000 {
		t.Errorf("%+v", s)
	}
	if s, err = ParseStats(nil); err != nil || s.CPU.PSI != nil || s.Hugetlb == nil {
		t.Errorf("of no files: %+v, %v", s, err)
	}
}

func TestStatsRefuse(t *testing.T) {
	tests := []struct{ file, text string }{
		{"cpu.stat", "usage_usec x\n"},
		{"cpu.stat", "usage\x1b[2J 5\n"},
		{"cpu.stat", strings.Repeat("x", 65) + " 5\n"},
		{"cpu.max", ""},
		{"cpu.max", "max\n"},
		{"cpu.max", "-5 100000\n"},
		{"memory.current", "-1\n"},
		{"memory.max", "1 2\n"},
		{"memory.events", "oom_kill\n"},
		{"pids.current", ""},
		{"io.stat", "x rbytes=1\n"},
		{"io.stat", "1:2 rbytes=x\n"},
		{"hugetlb.2MB.events", "max x\n"},
		{"cpu.pressure", "some avg10=NaN avg60=0.00 avg300=0.00 total=0\n"},
		{"io.pressure", "some avg10=1e300 avg60=0.00 avg300=0.00 total=0\n"},
		{"memory.pressure", "some total=0\n"},
		{"memory.pressure", "some a=1 b=2 c=3 d=4\n"},
	}
	for _, test := range tests {
		_, err := ParseStats(map[string][]byte{test.file: []byte(test.text)})
		if err == nil || err.Error() != `the guest's "`+test.file+`" cannot be understood` {
			t.Errorf("%s %q: %v", test.file, test.text, err)
		}
	}
}

// FuzzParseStats: whatever a guest says can be printed, in a size that follows that of its words.
func FuzzParseStats(f *testing.F) {
	for name, text := range guestFiles() {
		f.Add(name, text)
	}
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		files := guestFiles()
		files[name] = text
		s, err := ParseStats(files)
		if err != nil {
			return
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if limit := 8192 + 64*len(text); len(out) > limit {
			t.Errorf("%d bytes became %d", len(text), len(out))
		}
	})
}
