package network

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// keeperVariable tells this program to be a keeper: its value is the model and the interface.
const keeperVariable = "TEST_NETWORK_KEEPER"

func TestMain(m *testing.M) {
	if value := os.Getenv(keeperVariable); value != "" {
		if err := keep(value); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// keep joins an interface, starts a VMM (a cat with the tap open, which ends with our standard input), says its pid, and
// lives until it is killed.
func keep(value string) error {
	model, name, _ := strings.Cut(value, " ")
	state, err := Scan()
	if err != nil {
		return err
	}
	i := state.Interfaces[0]
	if i.Name != name {
		return os.ErrNotExist
	}
	var tap *Tap
	if model == "macvtap" {
		tap, err = NewMacvtap(i, 1)
	} else {
		tap, err = NewTap(1)
	}
	if err != nil {
		return err
	}
	if err := tap.Join(i); err != nil {
		return err
	}
	vmm := exec.Command("cat")
	vmm.Stdin, vmm.ExtraFiles = os.Stdin, tap.Files()
	if err := vmm.Start(); err != nil {
		return err
	}
	os.Stdout.WriteString(strconv.Itoa(vmm.Process.Pid) + "\n")
	select {}
}

// killedKeeper is a keeper that joined eth0 of this namespace and was killed. Its VMM still runs, until end is called.
func killedKeeper(t *testing.T, model string) (end func()) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	command := exec.Command(self)
	command.Env = append(os.Environ(), keeperVariable+"="+model+" eth0")
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	must(t, err)
	output, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	pid, err := bufio.NewReader(output).ReadString('\n')
	must(t, err)
	must(t, command.Process.Kill())
	command.Process.Wait()
	process, err := strconv.Atoi(strings.TrimSpace(pid))
	must(t, err)
	vmm, err := unix.PidfdOpen(process, 0)
	must(t, err)
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		input.Close()
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(vmm), Events: unix.POLLIN}}, int(guard.Milliseconds()))
		must(t, err)
		unix.Close(vmm)
		io.Copy(io.Discard, output)
	}
	t.Cleanup(end)
	return end
}

// The VMM ends before Clean or after it.
func TestCleanAfterKill(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	for _, model := range []string{"tap", "macvtap"} {
		killedKeeper(t, model)
		must(t, Clean(""))
		untouched(t, "eth0")

		end := killedKeeper(t, model)
		end()
		must(t, Clean(""))
		must(t, Clean(""))
		untouched(t, "eth0")
	}
}

// A sandbox may take the interface of a killed one without Clean.
func TestJoinAfterKill(t *testing.T) {
	enterNew(t)
	peer := addVeth(t, "eth0")
	wire := openWire(t, peer, "eth0")
	for _, ended := range []bool{false, true} {
		end := killedKeeper(t, "tap")
		if ended {
			end()
		}
		tap := newTestTap(t, 1)
		must(t, tap.Join(scanned(t, "eth0")))
		wire.send(t, frame("mine"))
		expectTap(t, tap.Files()[0], frame("mine"))
		must(t, Clean(""))
		wire.send(t, frame("still mine"))
		expectTap(t, tap.Files()[0], frame("still mine"))
		must(t, tap.Close())
		end()
		untouched(t, "eth0")
	}
}

func TestCleanByPath(t *testing.T) {
	enterNew(t)
	addVeth(t, "eth0")
	killedKeeper(t, "tap")()
	sandbox := current(t)
	path := filepath.Join(t.TempDir(), "netns")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })

	elsewhere := another(t)
	inside(t, elsewhere, func() { must(t, Clean(path)) })
	untouched(t, "eth0")
	inside(t, sandbox, func() { must(t, netlink.LinkDel(find(t, "eth0"))) })
	must(t, Clean(path))
	must(t, unix.Unmount(path, 0))
	must(t, Clean(path))
	must(t, os.Remove(path))
	must(t, Clean(path))
	must(t, Clean(path+"/net"))
	must(t, Clean("/proc/4194304/ns/net")) // more than PID_MAX_LIMIT
	if err := Clean("/proc/self/ns/uts"); err == nil {
		t.Error("cleaned a namespace of another kind")
	}
}

// What looks like a name of ours but is none.
func TestOurs(t *testing.T) {
	for name, want := range map[string]bool{"hyper00a1f": true, "hyper00a1": false, "hyper00a1f0": false, "hyper00A1F": false, "hyperspace": false, "eth0": false, "": false} {
		if isOurName(name) != want {
			t.Errorf("isOurName(%q) is %v", name, !want)
		}
	}
	enterNew(t)
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "hyper00a1f"}}))
	must(t, Clean(""))
	find(t, "hyper00a1f")
}
