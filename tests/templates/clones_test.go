package templates_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// clonesVariable names the environment variable with the number of clones that are compared.
const clonesVariable = "HYPER_TEST_CLONES"

// atOnce is how many of them run at a time.
const atOnce = 4

// identity prints what no two guests may have in common, a name and a value on each line. The container lives in the
// guest's own UTS and pid namespaces, where it sees the guest's own names. mktemp draws its letters with getrandom(2).
const identity = `
echo ready
read go
adjtimex | sed -n 's/.*tv_sec: */seconds /p; s/.*tv_usec: */microseconds /p'
echo end
echo urandom $(head -c 32 /dev/urandom | hexdump -ve '1/1 "%02x"')
echo getrandom $(mktemp -u XXXXXX)$(mktemp -u XXXXXX)
echo uuid $(cat /proc/sys/kernel/random/uuid)
echo boot_id $(cat /proc/sys/kernel/random/boot_id)
echo machine_id $(cat /proc/1/root/run/machine-id)
echo hostname $(hostname)
`

// length of each value, in characters.
var length = map[string]int{"urandom": 64, "getrandom": 12, "uuid": 36, "boot_id": 36, "machine_id": 32}

// numberOfClones is what the environment says, or enough for a test that runs often.
func numberOfClones(t *testing.T) int {
	t.Helper()
	value := os.Getenv(clonesVariable)
	if value == "" {
		return 20
	}
	count, err := strconv.Atoi(value)
	if err != nil {
		t.Fatalf("%s: %v", clonesVariable, err)
	}
	return count
}

func TestClonesAreNoTwins(t *testing.T) {
	count := numberOfClones(t)
	for kernel, config := range kernels(t) {
		t.Run(kernel, func(t *testing.T) {
			c := newCorner(t, config, nil)
			c.make()
			seen := map[string]string{} // what was seen, and in which container
			for begin := 0; begin < count; begin += atOnce {
				clones := make([]*clone, min(atOnce, count-begin))
				for i := range clones {
					clones[i] = newClone(c)
				}
				var all sync.WaitGroup
				for _, clone := range clones {
					all.Go(clone.run)
				}
				all.Wait()
				for _, clone := range clones {
					for name := range length {
						value := name + " " + clone.values[name]
						if other, twin := seen[value]; twin {
							t.Errorf("%s and %s both have %s", other, clone.id, value)
						}
						seen[value] = clone.id
					}
				}
			}
			if hits := c.only().Hits; hits != int64(count) {
				t.Errorf("%d of %d were clones", hits, count)
			}
			t.Logf("%d clones, no two alike", count)
		})
	}
}

// clone is a container that tells its guest's identity.
type clone struct {
	*corner
	id     string
	bundle string
	values map[string]string
}

func newClone(c *corner) *clone {
	c.T.Helper()
	b := c.Shell(identity)
	b.RemoveHostname()
	for _, namespace := range []string{"uts", "pid"} {
		if err := b.RemoveLinuxNamespace(namespace); err != nil {
			c.T.Fatal(err)
		}
	}
	if err := b.AddProcessCapability("CAP_SYS_PTRACE"); err != nil { // to follow /proc/1/root
		c.T.Fatal(err)
	}
	b.Config.Linux.Seccomp = nil // the usual profile refuses adjtimex(2), even to read the clock
	b.Write()
	return &clone{corner: c, id: c.ID(), bundle: b.Dir, values: map[string]string{}}
}

// run runs it to its end, and checks all that needs no other.
func (c *clone) run() {
	p := c.Spawn(c.Command("run", "--bundle", c.bundle, c.id))
	p.Stdout.Expect(c.T, "ready")
	before := time.Now()
	if _, err := io.WriteString(p.Stdin, "go\n"); err != nil {
		c.T.Error(err)
	}
	p.Stdout.Expect(c.T, "end")
	after := time.Now()
	r := p.Wait()
	if r.Code != 0 || r.Stderr != "" {
		c.T.Errorf("%s: %v", c.id, r)
	}
	for line := range strings.Lines(r.Stdout) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		c.values[name] = value
	}
	for name, want := range length {
		if len(c.values[name]) != want {
			c.T.Errorf("%s: %s is %q", c.id, name, c.values[name])
		}
	}
	if want := c.id[:min(len(c.id), 12)]; c.values["hostname"] != want {
		c.T.Errorf("%s has the host name %q, want %q", c.id, c.values["hostname"], want)
	}
	seconds, err1 := strconv.ParseInt(c.values["seconds"], 10, 64)
	micros, err2 := strconv.ParseInt(c.values["microseconds"], 10, 64)
	now := time.Unix(seconds, micros*1000)
	if err1 != nil || err2 != nil || now.Before(before.Add(-time.Second)) || now.After(after.Add(time.Second)) {
		c.T.Errorf("%s: its clock says %v, the host's %v to %v", c.id, now, before, after)
	}
}

// A guest that writes to all memory that it has, and one that resets itself, leave the template as it is.
func TestGuestCannotChangeTemplate(t *testing.T) {
	c := newCorner(t, "", map[string]any{"memory_mib": 96})
	dir := c.make()
	before, size := sums(c, dir), c.only().Bytes
	fill := c.Shell(`
		free=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
		tr '\0' x < /dev/zero | dd of=/fill/x bs=1M iflag=fullblock count=$((free * 85 / 100)) 2>&1 | grep copied
		echo full; read go; rm /fill/x`)
	fill.AddMount(specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/fill", Options: []string{"size=100%"}})
	full := c.StartNew(fill)
	full.Stdout.Expect(t, "full")
	c.expectClone(full.ID, true)
	own := 0
	for _, m := range guestMemory(c, dir) {
		own += m.copied
	}
	if own < 96<<10 {
		t.Errorf("the guest has %d KiB of its own: it has not written to its memory; %q", own, full.Stdout.Text())
	}
	if _, err := io.WriteString(full.Stdin, "go\n"); err != nil {
		t.Error(err)
	}
	if r := full.Wait(); r.Code != 0 {
		t.Errorf("%v", r)
	}

	reset := c.Shell("reboot -f; sleep 1000")
	if err := reset.RemoveLinuxNamespace("pid"); err != nil {
		t.Fatal(err)
	}
	if err := reset.AddProcessCapability("CAP_SYS_BOOT"); err != nil {
		t.Fatal(err)
	}
	reset.Config.Linux.Seccomp = nil
	if r := c.StartNew(reset).Wait(); r.Code != 137 {
		t.Errorf("a guest that reset itself: %v", r)
	}
	if after := sums(c, dir); after != before {
		t.Errorf("the template was %s, and is %s", before, after)
	}
	// What the guests have filled are holes in the template. They stay holes.
	if after := c.only(); after.Hits != 2 || after.Bytes > size+4<<20 {
		t.Errorf("%+v, want 2 hits, and %d bytes", after, size)
	}
	c.runs("echo as new", "as new\n")
}

// sums are those of a template's files.
func sums(c *corner, dir string) (text string) {
	c.T.Helper()
	for _, name := range []string{"memory", "state", "machine.json"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			c.T.Fatal(err)
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			c.T.Fatal(err)
		}
		text += fmt.Sprintf("%s %x ", name, sum.Sum(nil))
	}
	return text
}

// Idle sandboxes share what they have not written to.
func TestClonesSharePages(t *testing.T) {
	counts := []int{1, 5}
	if numberOfClones(t) > 20 { // somebody has time
		counts = append(counts, 20)
	}
	c := newCorner(t, "", nil)
	dir := c.make()
	alone, started := 0, 0
	for _, count := range counts {
		for ; started < count; started++ {
			c.StartSleeper()
		}
		memories := guestMemory(c, dir)
		if len(memories) != count {
			t.Fatalf("%d clones, want %d", len(memories), count)
		}
		pss, own := 0, 0
		for _, m := range memories {
			pss += m.pss / count
			own += m.copied / count
		}
		t.Logf("%d idle: the guest's memory takes %.1f MiB of each, of which %.1f are its own", count, mib(pss), mib(own))
		if count == 1 {
			alone = pss
		} else if pss > alone*7/10 {
			t.Errorf("of %d each takes %d KiB, one alone %d: they do not share", count, pss, alone)
		}
		if own > 40<<10 {
			t.Errorf("an idle clone has %d KiB of its own", own)
		}
	}
}

func mib(kib int) float64 { return float64(kib) / 1024 }

// mapping is what smaps says of a mapping, in KiB (proc_pid_smaps(5)).
//
// Copied are the pages that were written to (Anonymous). Private_Dirty would also count those of the file that nobody
// else maps.
type mapping struct{ pss, copied int }

// guestMemory measures the mappings of the template's memory.
func guestMemory(c *corner, dir string) (all []mapping) {
	c.T.Helper()
	for _, pid := range c.qemus() {
		inside := false
		for line := range strings.Lines(c.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))) {
			fields := strings.Fields(line)
			if !strings.HasSuffix(fields[0], ":") { // the head of a mapping, with its file at the end
				if inside = fields[len(fields)-1] == dir+"/memory"; inside {
					all = append(all, mapping{})
				}
				continue
			}
			if !inside {
				continue
			}
			kib, err := strconv.Atoi(fields[1])
			switch {
			case fields[0] == "Pss:" && err == nil:
				all[len(all)-1].pss = kib
			case fields[0] == "Anonymous:" && err == nil:
				all[len(all)-1].copied = kib
			}
		}
	}
	return all
}
