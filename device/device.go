// Package device decides what the device nodes of a configuration are in a guest.
package device

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// number is a kind of device (c or b) and a major number, and a minor number or any.
type number struct {
	kind         string
	major, minor int64
}

const anyMinor = -1

// guestOwn are the devices that name a service of the kernel, not a thing: in a guest they mean the guest's kernel. See
// the kernel's Documentation/admin-guide/devices.txt.
var guestOwn = map[number]bool{
	{"c", 1, anyMinor}: true, // mem, null, zero, full, random, urandom, kmsg
	{"c", 5, anyMinor}: true, // tty, console, ptmx
	{"c", 10, 183}:     true, // hwrng
	{"c", 10, 200}:     true, // net/tun
	{"c", 10, 229}:     true, // fuse
	{"c", 10, 237}:     true, // loop-control
}

// Guest are the device nodes that the guest makes for a container, of those in linux.devices. rules are
// linux.resources.devices. onHost tells whether a number belongs to a device that the host has; OnHost is the real one.
//
// A node that means the guest's own kernel, a FIFO, or a number that the host has no device for is made in the guest. A
// device of the host is refused, except for a privileged container: engines list all devices of the host for such a one,
// and mean "all that there are".
func Guest(devices []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup, onHost func(specs.LinuxDevice) bool) ([]specs.LinuxDevice, error) {
	var kept []specs.LinuxDevice
	for _, d := range devices {
		if d.Type == "p" || isGuestOwn(d) || !onHost(d) {
			kept = append(kept, d)
			continue
		}
		if !privileged(rules) {
			return nil, fmt.Errorf("device %s (%s %d:%d) of the host is not supported: a VM cannot reach it", d.Path, d.Type, d.Major, d.Minor)
		}
	}
	return kept, nil
}

func isGuestOwn(d specs.LinuxDevice) bool {
	kind := kind(d)
	return guestOwn[number{kind, d.Major, anyMinor}] || guestOwn[number{kind, d.Major, d.Minor}]
}

// kind is b or c: an unbuffered character device (u) is the same to Linux as any other.
func kind(d specs.LinuxDevice) string {
	if d.Type == "b" {
		return "b"
	}
	return "c"
}

// privileged says whether the rules end up allowing every access to every device.
func privileged(rules []specs.LinuxDeviceCgroup) bool {
	all := false
	for _, r := range rules {
		if (r.Type == "" || r.Type == "a") && isAny(r.Major) && isAny(r.Minor) && (r.Access == "" || containsAll(r.Access, "rwm")) {
			all = r.Allow
		}
	}
	return all
}

func isAny(n *int64) bool { return n == nil || *n == -1 }

func containsAll(access, letters string) bool {
	for _, l := range letters {
		if !strings.ContainsRune(access, l) {
			return false
		}
	}
	return true
}

// OnHost tells whether the host has a device of that kind and number.
func OnHost(d specs.LinuxDevice) bool {
	class, format := "char", uint32(unix.S_IFCHR)
	if kind(d) == "b" {
		class, format = "block", unix.S_IFBLK
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/%s/%d:%d", class, d.Major, d.Minor)); err == nil {
		return true
	}
	// Some drivers tell sysfs nothing. Then the node itself is the only sign.
	var st unix.Stat_t
	return unix.Lstat(d.Path, &st) == nil && st.Mode&unix.S_IFMT == format &&
		st.Rdev == unix.Mkdev(uint32(d.Major), uint32(d.Minor))
}
