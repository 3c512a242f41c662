package resource

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Stats are the figures of a container. As JSON they are the data of runc's "stats" events (its types/events.go), with
// the fields and omissions of runc 1.1 and, as later runcs have it, pressures. Times are in nanoseconds, sizes in bytes.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	CPUSet  CPUSetStats             `json:"cpuset"`
	Memory  MemoryStats             `json:"memory"`
	Pids    PidsStats               `json:"pids"`
	Blkio   BlkioStats              `json:"blkio"`
	Hugetlb map[string]HugetlbStats `json:"hugetlb"` // by page size: "2MB"

	// Always empty: the guest has no cache allocation, and runc counts interfaces that it has made itself only.
	IntelRdt          struct{}   `json:"intel_rdt"`
	NetworkInterfaces []struct{} `json:"network_interfaces"`

	// What runc does not print.
	OOMKills  uint64 `json:"-"` // processes that were killed because there was no memory
	CPUQuota  int64  `json:"-"` // microseconds; -1: none
	CPUPeriod uint64 `json:"-"` // microseconds; 0: the guest has not said
}

// CPUStats is the time that was used, and how often there was no more to use.
type CPUStats struct {
	Usage struct {
		Total  uint64 `json:"total,omitempty"`
		Kernel uint64 `json:"kernel"`
		User   uint64 `json:"user"`
	} `json:"usage"`
	Throttling struct {
		Periods          uint64 `json:"periods,omitempty"`
		ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
		ThrottledTime    uint64 `json:"throttledTime,omitempty"`
	} `json:"throttling"`
	PSI *PSI `json:"psi,omitempty"`
}

// CPUSetStats are zeros: only cgroup v1 has these figures.
type CPUSetStats struct {
	CPUExclusive          uint64 `json:"cpu_exclusive"`
	MemHardwall           uint64 `json:"mem_hardwall"`
	MemExclusive          uint64 `json:"mem_exclusive"`
	MemoryMigrate         uint64 `json:"memory_migrate"`
	MemorySpreadPage      uint64 `json:"memory_spread_page"`
	MemorySpreadSlab      uint64 `json:"memory_spread_slab"`
	MemoryPressure        uint64 `json:"memory_pressure"`
	SchedLoadBalance      uint64 `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64  `json:"sched_relax_domain_level"`
}

// MemoryStats is the memory in use. Swap is memory and swap together, as in cgroup v1.
type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryUsage       `json:"usage"`
	Swap      MemoryUsage       `json:"swap"`
	Kernel    MemoryUsage       `json:"kernel"`    // cgroup v1 only
	KernelTCP MemoryUsage       `json:"kernelTCP"` // cgroup v1 only
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *PSI              `json:"psi,omitempty"`
}

// MemoryUsage is one kind of memory.
type MemoryUsage struct {
	Limit   uint64 `json:"limit"` // Unlimited: none
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"` // the most that ever was in use
	Failcnt uint64 `json:"failcnt"`       // cgroup v1 only
}

// Unlimited is how runc prints that there is no limit.
const Unlimited = math.MaxUint64

// PidsStats is the number of processes and threads.
type PidsStats struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"` // 0: none
}

// BlkioStats is what went to and from the guest's own disks.
type BlkioStats struct {
	ServiceBytes []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
	PSI          *PSI         `json:"psi,omitempty"`
}

// BlkioEntry is one figure of one disk.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"` // "Read" or "Write"
	Value uint64 `json:"value,omitempty"`
}

// HugetlbStats is the use of one size of huge pages.
type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PSI says how much time went by waiting (kernel Documentation/accounting/psi.rst).
type PSI struct {
	Some Pressure `json:"some"`
	Full Pressure `json:"full"`
}

// Pressure are percentages of the last seconds, and microseconds in all.
type Pressure struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// ParseStats reads the files of a cgroup v2 by their names (kernel Documentation/admin-guide/cgroup-v2.rst), and maps
// them to what runc prints, as runc does. A file that is missing leaves its figures zero; one that the kernel did not
// write so is an error that names it. The files come from a guest: whatever they say, the result is not larger than
// they are, and can be printed.
func ParseStats(files map[string][]byte) (Stats, error) {
	s := Stats{Hugetlb: map[string]HugetlbStats{}}
	f := statFiles{files: files}
	f.cpu(&s)
	f.memory(&s)
	s.Pids = PidsStats{Current: f.number("pids.current"), Limit: f.number("pids.max")}
	if s.Pids.Limit == Unlimited {
		s.Pids.Limit = 0
	}
	f.blkio(&s.Blkio)
	f.hugetlb(s.Hugetlb)
	s.CPU.PSI, s.Memory.PSI, s.Blkio.PSI = f.psi("cpu.pressure"), f.psi("memory.pressure"), f.psi("io.pressure")
	return s, f.err
}

// statFiles reads figures out of files, and keeps the first error.
type statFiles struct {
	files map[string][]byte
	err   error
}

func (f *statFiles) fail(name string) {
	if f.err == nil {
		f.err = fmt.Errorf("the guest's %.40q cannot be understood", name)
	}
}

// number reads a file with one number or "max".
func (f *statFiles) number(name string) uint64 {
	text, there := f.files[name]
	if !there {
		return 0
	}
	n, ok := parseNumber(strings.TrimSpace(string(text)))
	if !ok {
		f.fail(name)
	}
	return n
}

func parseNumber(text string) (n uint64, ok bool) {
	if text == "max" {
		return Unlimited, true
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// isCounterName tells whether the kernel could call a figure so.
func isCounterName(name string) bool {
	return 0 < len(name) && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_.") == ""
}

// counters reads a file of lines "name number"; nil when it is missing.
func (f *statFiles) counters(name string) map[string]uint64 {
	text, there := f.files[name]
	if !there {
		return nil
	}
	counters := map[string]uint64{}
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		n, ok := parseNumber(value)
		if !ok || !isCounterName(key) {
			f.fail(name)
			return nil
		}
		counters[key] = n
	}
	return counters
}

func (f *statFiles) cpu(s *Stats) {
	const microsecond = 1000
	counters := f.counters("cpu.stat")
	s.CPU.Usage.Total = counters["usage_usec"] * microsecond
	s.CPU.Usage.User = counters["user_usec"] * microsecond
	s.CPU.Usage.Kernel = counters["system_usec"] * microsecond
	s.CPU.Throttling.Periods = counters["nr_periods"]
	s.CPU.Throttling.ThrottledPeriods = counters["nr_throttled"]
	s.CPU.Throttling.ThrottledTime = counters["throttled_usec"] * microsecond
	text, there := f.files["cpu.max"]
	if !there {
		return
	}
	quota, period, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	s.CPUQuota = -1
	var err, err2 error
	if quota != "max" {
		s.CPUQuota, err = strconv.ParseInt(quota, 10, 64)
	}
	s.CPUPeriod, err2 = strconv.ParseUint(period, 10, 64)
	if err != nil || err2 != nil || s.CPUQuota < -1 {
		f.fail("cpu.max")
	}
}

func (f *statFiles) memory(s *Stats) {
	m := &s.Memory
	m.Raw = f.counters("memory.stat")
	m.Cache = m.Raw["file"]
	m.Usage = MemoryUsage{Limit: f.number("memory.max"), Usage: f.number("memory.current"), Max: f.number("memory.peak")}
	if _, there := f.files["memory.swap.current"]; there {
		m.Swap.Limit, m.Swap.Usage = f.number("memory.swap.max"), f.number("memory.swap.current")
	}
	m.Swap.Usage += m.Usage.Usage
	if m.Swap.Limit != Unlimited {
		m.Swap.Limit += m.Usage.Limit
	}
	s.OOMKills = f.counters("memory.events")["oom_kill"]
}

// blkio reads lines "major:minor rbytes=1 wbytes=2 rios=3 wios=4 ...".
func (f *statFiles) blkio(b *BlkioStats) {
	const name = "io.stat"
	for line := range bytes.Lines(f.files[name]) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 {
			continue // the kernel writes devices without figures so
		}
		major, minor, _ := strings.Cut(fields[0], ":")
		entry := BlkioEntry{}
		var err, err2 error
		entry.Major, err = strconv.ParseUint(major, 10, 32)
		entry.Minor, err2 = strconv.ParseUint(minor, 10, 32)
		if err != nil || err2 != nil {
			f.fail(name)
			return
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			table := &b.ServiceBytes
			switch key {
			case "rbytes", "wbytes":
			case "rios", "wios":
				table = &b.Serviced
			default:
				continue
			}
			entry.Op = map[byte]string{'r': "Read", 'w': "Write"}[key[0]]
			if entry.Value, err = strconv.ParseUint(value, 10, 64); err != nil {
				f.fail(name)
				return
			}
			*table = append(*table, entry)
		}
	}
}

func (f *statFiles) hugetlb(sizes map[string]HugetlbStats) {
	for name := range f.files {
		size, ok := hugetlbSize(name)
		if !ok {
			continue
		}
		usage := "hugetlb." + size + ".rsvd.current"
		if _, there := f.files[usage]; !there {
			usage = "hugetlb." + size + ".current"
		}
		sizes[size] = HugetlbStats{Usage: f.number(usage), Failcnt: f.counters(name)["max"]}
	}
}

// hugetlbSize is the size in the name of the file of events that the kernel has for each size of huge pages:
// "hugetlb.2MB.events". ok says whether it is such a file's.
func hugetlbSize(file string) (size string, ok bool) {
	size, before := strings.CutPrefix(file, "hugetlb.")
	size, after := strings.CutSuffix(size, ".events")
	number := strings.TrimRight(size, "KMGB")
	_, err := strconv.ParseUint(number, 10, 32)
	unit := size[len(number):]
	return size, before && after && err == nil && (unit == "KB" || unit == "MB" || unit == "GB")
}

// psi reads two lines "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and "full ..."; nil when the file is missing.
func (f *statFiles) psi(name string) *PSI {
	text, there := f.files[name]
	if !there {
		return nil
	}
	psi := &PSI{}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) != 5 {
			f.fail(name)
			return nil
		}
		pressure := &psi.Some
		if fields[0] == "full" {
			pressure = &psi.Full
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			if !pressure.set(key, value) {
				f.fail(name)
				return nil
			}
		}
	}
	return psi
}

// set sets the field of that name.
func (p *Pressure) set(key, value string) bool {
	fields := map[string]*float64{"avg10": &p.Avg10, "avg60": &p.Avg60, "avg300": &p.Avg300}
	var err error
	if field := fields[key]; field != nil {
		*field, err = strconv.ParseFloat(value, 64)
		return err == nil && *field >= 0 && *field <= 100
	}
	p.Total, err = strconv.ParseUint(value, 10, 64)
	return err == nil && key == "total"
}
