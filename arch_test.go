package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/hyper-runtime/hyper/"

// rooms says which rooms of this module a room may import. docs/ARCHITECTURE.md explains them. A room that is missing
// here may not exist.
var rooms = map[string][]string{
	".":          {"config", "keeper", "keeper/api", "oci"},
	"keeper":     {"config", "console", "hypervisor", "keeper/api", "network", "oci", "program", "resource", "sandbox", "store"},
	"keeper/api": {},
	"sandbox":    {"agent/client", "agent/protocol", "console", "device", "hypervisor", "network", "oci", "storage"},

	"hypervisor":                {"hypervisor/qmp", "program"},
	"hypervisor/qmp":            {},
	"hypervisor/hypervisortest": {"hypervisor", "hypervisor/qmp", "program"},

	"config":   {},
	"console":  {},
	"device":   {},
	"network":  {},
	"oci":      {},
	"program":  {},
	"resource": {},
	"storage":  {},
	"store":    {},

	"agent":           {"agent/network", "agent/protocol"},
	"agent/network":   {"agent/protocol"},
	"agent/client":    {"agent/protocol"},
	"agent/protocol":  {},
	"cmd/hyper-agent": {"agent"},

	"guest":         {},
	"guest/mkguest": {"guest"},

	"tests/bench":   {"agent/client", "agent/protocol", "config", "guest", "hypervisor", "network", "resource", "tests/harness"},
	"tests/harness": {},

	"tests/cli/testdata/mapper": {},
}

// modules says which rooms may import a third-party module. The standard library and these two are for all:
// golang.org/x/sys, runtime-spec.
var modules = map[string][]string{
	"github.com/BurntSushi/toml":              {"config"},
	"github.com/cavaliergopher/cpio":          {"guest"},
	"github.com/containerd/ttrpc":             {"agent", "agent/client", "agent/protocol", "keeper", "keeper/api"},
	"github.com/godbus/dbus/v5":               {"resource"},
	"github.com/hashicorp/yamux":              {"agent", "agent/client", "agent/protocol"},
	"github.com/opencontainers/runtime-tools": {".", "tests/harness"},
	"github.com/urfave/cli/v3":                {"."},
	"github.com/vishvananda/netlink":          {"network"},
	"github.com/vishvananda/netns":            {"network"},
	"google.golang.org/grpc":                  {"agent", "agent/client", "keeper"},
	"google.golang.org/protobuf":              {"agent", "agent/client", "agent/protocol", "keeper", "keeper/api"},
	"github.com/opencontainers/runtime-spec":  nil,
	"golang.org/x/sys":                        nil,
}

// TestArrows holds the imports of the tree against the two tables.
func TestArrows(t *testing.T) {
	imports := readImports(t)
	for _, room := range slices.Sorted(maps.Keys(imports)) {
		allowed, known := rooms[room]
		if !known {
			t.Errorf("room %s is not in the table", room)
		}
		for _, imported := range imports[room] {
			if other, ours := strings.CutPrefix(imported, module); ours {
				if !slices.Contains(allowed, other) {
					t.Errorf("%s imports %s", room, other)
				}
				continue
			}
			checkModule(t, room, imported)
		}
	}
	for room := range rooms {
		if _, exists := imports[room]; !exists {
			t.Errorf("the table has a room that does not exist: %s", room)
		}
	}
}

func checkModule(t *testing.T, room, imported string) {
	t.Helper()
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		return // the standard library
	}
	for name, allowed := range modules {
		if imported == name || strings.HasPrefix(imported, name+"/") {
			if allowed != nil && !slices.Contains(allowed, room) {
				t.Errorf("%s imports %s", room, imported)
			}
			return
		}
	}
	t.Errorf("%s imports %s, which is not in the table", room, imported)
}

// heavy are packages that every process of hyper would pay for: an idle keeper's memory is mostly the pages of its
// program and what packages make when it starts.
var heavy = map[string]string{
	"net/http":      "a megabyte of code",
	"regexp":        "200 KiB of code, and the patterns are compiled by each process; functions of strings are enough",
	"runtime/cgo":   "the C library",
	"text/template": "calls methods by name, so that the linker keeps every exported method: a megabyte",
}

// TestLight checks that the binary, built as the Makefile builds it, has none of the heavy packages in it.
func TestLight(t *testing.T) {
	list := exec.Command("go", "list", "-deps", "-tags", "urfave_cli_no_template", ".")
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	packages, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(packages)) {
		if why, isHeavy := heavy[name]; isHeavy {
			t.Errorf("hyper imports %s: %s", name, why)
		}
	}
}

// TestNobodyExits checks that stdout, stderr and os.Exit belong to the commands.
func TestNobodyExits(t *testing.T) {
	for _, file := range goFiles(t) {
		room := path.Dir(file)
		if room == "." || strings.HasPrefix(room, "cmd/") || strings.HasPrefix(room, "tests") || room == "guest/mkguest" ||
			room == "hypervisor/hypervisortest" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"os.Exit(", "fmt.Print", "os.Getenv(\"HYPER"} {
			if strings.Contains(string(text), word) {
				t.Errorf("%s says %s", file, word)
			}
		}
	}
}

// readImports lists what the files of each room import, without its tests.
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	for _, file := range goFiles(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		room := path.Dir(file)
		imports[room] = append(imports[room], []string{}...)
		for _, spec := range parsed.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imports[room] = append(imports[room], name)
		}
	}
	for room := range imports {
		slices.Sort(imports[room])
		imports[room] = slices.Compact(imports[room])
	}
	return imports
}

// goFiles are the Go files of the tree that are no tests.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == "build" || name == "bin" || name != "." && strings.HasPrefix(entry.Name(), ".")):
			return fs.SkipDir
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
