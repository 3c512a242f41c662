package device

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func node(path, kind string, major, minor int64) specs.LinuxDevice {
	return specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor}
}

// docker are the rules of `docker run`, privileged those of `docker run --privileged`.
var (
	three      = int64(3)
	docker     = []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &three, Access: "rwm"}}
	allowAll   = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	deniedLate = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Type: "a"}}
	onlyRead   = []specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}
)

func TestGuest(t *testing.T) {
	tests := []struct {
		name   string
		device specs.LinuxDevice
		rules  []specs.LinuxDeviceCgroup
		kept   bool
		err    string
	}{
		{"null", node("/dev/null", "c", 1, 3), docker, true, ""},
		{"ptmx", node("/dev/ptmx", "c", 5, 2), docker, true, ""},
		{"tun", node("/dev/net/tun", "c", 10, 200), docker, true, ""},
		{"tun, unbuffered", node("/dev/net/tun", "u", 10, 200), docker, true, ""},
		{"fuse", node("/dev/fuse", "c", 10, 229), docker, true, ""},
		{"fifo", node("/dev/pipe", "p", 8, 0), docker, true, ""},
		{"unknown to the host", node("/dev/test1", "c", 10, 666), docker, true, ""},
		{"disk", node("/dev/sda", "b", 8, 0), docker, false, "device /dev/sda (b 8:0) of the host is not supported"},
		{"disk by another name", node("/dev/mine", "b", 8, 0), docker, false, "device /dev/mine (b 8:0)"},
		{"ram disk is not /dev/null", node("/dev/ram3", "b", 1, 3), docker, false, "device /dev/ram3"},
		{"disk, privileged", node("/dev/sda", "b", 8, 0), allowAll, false, ""},
		{"null, privileged", node("/dev/null", "c", 1, 3), allowAll, true, ""},
		{"disk, denied in the end", node("/dev/sda", "b", 8, 0), deniedLate, false, "device /dev/sda"},
		{"disk, read only", node("/dev/sda", "b", 8, 0), onlyRead, false, "device /dev/sda"},
		{"disk, no rules", node("/dev/sda", "b", 8, 0), nil, false, "device /dev/sda"},
	}
	onHost := func(d specs.LinuxDevice) bool { return d.Minor != 666 }
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			kept, err := Guest([]specs.LinuxDevice{test.device}, test.rules, onHost)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || (len(kept) == 1) != test.kept {
				t.Errorf("got %v, %v, want kept %t", kept, err, test.kept)
			}
		})
	}
}

func TestOnHost(t *testing.T) {
	tests := []struct {
		device specs.LinuxDevice
		want   bool
	}{
		{node("/anywhere", "c", 1, 3), true},
		{node("/dev/null", "c", 1, 3), true},
		{node("/dev/null", "b", 1, 333), false},
		{node("/dev/test1", "c", 10, 666), false},
		{node("/dev/test2", "b", 8, 666), false},
	}
	for _, test := range tests {
		if got := OnHost(test.device); got != test.want {
			t.Errorf("%+v: got %t", test.device, got)
		}
	}
}
