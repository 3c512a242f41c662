package templates_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTemplateVerbs(t *testing.T) {
	c := newCorner(t, "", map[string]any{"memory_mib": 64, "memory_overhead_mib": 100})
	if got := c.OK("template", "list", "-f", "json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("without any: %q", got)
	}
	if got := c.OK("template", "list"); !regexp.MustCompile(`^KEY +MACHINE +KERNEL +MIB +HITS +AGE +USED\n$`).MatchString(got) {
		t.Errorf("without any: %q", got)
	}
	if got := c.OK("template", "create"); got != "" {
		t.Errorf("create said %q", got)
	}
	first := c.only()
	c.OK("template", "create") // is there
	if again := c.only(); again.Key != first.Key || !again.Created.Equal(first.Created) {
		t.Errorf("%+v, before %+v", again, first)
	}
	if mib := first.Machine["MemoryMiB"].(float64); first.Machine["VCPUs"] != 1.0 || mib < 64+100 || mib > 64+150 || first.Machine["Balloon"] != false {
		t.Errorf("%+v", first)
	}
	c.OK("template", "create", "--vcpus", "2", "--memory-mib", "200")
	list := c.list()
	if len(list) != 2 || list[1].Machine["VCPUs"] != 2.0 || list[1].Machine["MemoryMiB"] != 200.0 {
		t.Fatalf("%+v", list)
	}
	c.runs("echo clone", "clone\n")
	line := regexp.MustCompile(`(?m)^` + first.Key + ` +\S+ 1 vCPUs \d+ MiB +/\S+ +\d+ +1 +\d+\S* +\d+\S* ago *$`)
	other := regexp.MustCompile(`(?m)^` + list[1].Key + ` +\S+ 2 vCPUs 200 MiB +/\S+ +\d+ +0 +\d+\S* +never *$`)
	if got := c.OK("template", "list"); !line.MatchString(got) || !other.MatchString(got) || strings.Count(got, "\n") != 3 {
		t.Errorf("list says %q", got)
	}

	for want, args := range map[string][]string{
		`invalid format option "yaml": table or json`:                {"list", "--format", "yaml"},
		"template remove: a key, or --all":                           {"remove"},
		`template "../etc": no such template`:                        {"remove", "../etc"},
		`template "": no such template`:                              {"remove", ""},
		"template " + strings.Repeat("0", 24) + ": no such template": {"remove", strings.Repeat("0", 24)},
		"machine: -1 vCPUs":                                          {"create", "--vcpus", "-1"},
		"machine: -5 MiB of memory":                                  {"create", "--memory-mib", "-5"},
		`template "x": no such template; template ".lock": no such`:  {"remove", "x", ".lock"},
		`invalid value "many" for flag -vcpus`:                       {"create", "--vcpus", "many"},
		"flag provided but not defined: -everything":                 {"remove", "--everything"},
	} {
		r := c.Run(append([]string{"template"}, args...)...)
		if r.Code != 1 || !strings.Contains(r.Stderr, want) || strings.Count(r.Stderr, "hyper: ") != 1 {
			t.Errorf("%q: %v, want %q", args, r, want)
		}
	}
	c.OK("template", "remove", first.Key)
	if only := c.only(); only.Key != list[1].Key {
		t.Errorf("%+v", only)
	}
	c.OK("template", "remove", "--all")
	c.OK("template", "remove", "--all")
	if list := c.list(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// A template that cannot be made by hand says why, and keeps nothing but the note.
func TestTemplateCreateFails(t *testing.T) {
	c := newCorner(t, "", map[string]any{"qemu": "/bin/false"})
	c.Refused("make template: QEMU did not start: false: exit status 1", "template", "create")
	c.setConfig(map[string]any{"kernel": "/no/such/kernel"})
	c.Refused("template key: stat /no/such/kernel: no such file or directory", "template", "create")
	c.setConfig(map[string]any{"boot_timeout_seconds": 1, "kernel_args": "rdinit=/bin/crun"})
	c.Refused("make template: the ", "template", "create")
	if list := c.list(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// A template stays as long as a VM is its clone, however long that is, and whatever ends it.
func TestTemplateInUseStays(t *testing.T) {
	c := newCorner(t, "", nil)
	c.make()
	key := c.only().Key
	refused := func() {
		t.Helper()
		c.Refused("template "+key+": template is in use", "template", "remove", key)
	}
	first, second := c.StartSleeper(), c.StartSleeper()
	refused()
	// Enough work for the keeper that its memory is collected.
	for range 6 {
		const bytes = 20_000_000
		if r := first.Exec("head", "-c", fmt.Sprint(bytes), "/dev/zero"); len(r.Stdout) != bytes {
			t.Errorf("%d bytes came, %q", len(r.Stdout), r.Stderr)
		}
	}
	second.Remove()
	refused()
	c.OK("template", "create", "--vcpus", "2")
	// Of all, those go that can.
	c.Refused("template "+key+": template is in use", "template", "remove", "--all")
	if only := c.only(); only.Key != key {
		t.Errorf("%+v", only)
	}
	if err := unix.Kill(first.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	c.OK("template", "remove", key)
	if list := c.list(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}
