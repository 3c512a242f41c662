package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md and default.toml anew from the struct Config")

// TestDocuments compares what an admin reads with the struct that it describes.
func TestDocuments(t *testing.T) {
	comments := fieldComments(t)
	for file, want := range map[string]string{
		"../docs/configuration.md": page(comments),
		"default.toml":             example(comments),
	} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not what the struct Config says: run go test ./config -update", file)
		}
	}
}

// TestExampleIsTheDefault takes the comment signs off default.toml: then it must say what the program does without it.
func TestExampleIsTheDefault(t *testing.T) {
	text, err := os.ReadFile("default.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Parse("default.toml", string(text)); err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("as installed: %+v, %v", c, err)
	}
	var set strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "# ") {
			set.WriteString(strings.TrimPrefix(line, "#"))
		}
	}
	if n := strings.Count(set.String(), " = "); n != len(settings()) {
		t.Errorf("%d keys, want %d", n, len(settings()))
	}
	if c, err := Parse("default.toml", set.String()); err != nil || !reflect.DeepEqual(c, Default()) {
		t.Errorf("with every key set: %+v, %v", c, err)
	}
}

func page(comments map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Configuration

hyper reads %s when it is there, or the file named by --config, which must be there. It is TOML. A key that is not
listed here, a value of the wrong type and a value out of bounds are errors that name the file, the line and the key.
Without the file every setting has its default.

This page is made from the comments in config/config.go.

`, DefaultPath)
	for _, s := range settings() {
		fmt.Fprintf(&b, "## %s\n\n%s. Default: `%s`.\n\n%s\n", s.key, kind(s), s.defaultTOML, comments[s.key])
	}
	return strings.TrimSuffix(b.String(), "\n") + "\n"
}

func example(comments map[string]string) string {
	var b strings.Builder
	b.WriteString("# hyper's settings, each with its default. Take the # off a key to set it.\n")
	for _, s := range settings() {
		comment := strings.TrimSpace(comments[s.key])
		fmt.Fprintf(&b, "\n# %s\n#%s = %s\n", strings.ReplaceAll(comment, "\n", "\n# "), s.key, s.defaultTOML)
	}
	return b.String()
}

func kind(s setting) string {
	switch reflect.TypeFor[Config]().Field(s.field).Type.Kind() {
	case reflect.Int:
		return fmt.Sprintf("A whole number from %d to %d", s.min, s.max)
	case reflect.Slice:
		return "A list of strings"
	default:
		if len(s.oneof) > 0 {
			return `One of "` + strings.Join(s.oneof, `", "`) + `"`
		}
		return "A string"
	}
}

// fieldComments returns the comment of each field of Config by its key, and fails on a field that has none.
func fieldComments(t *testing.T) map[string]string {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	comments := make(map[string]string)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		for i, f := range spec.Type.(*ast.StructType).Fields.List {
			comment := f.Doc.Text()
			if comment == "" {
				t.Errorf("field %s has no comment", f.Names[0])
			}
			comments[settings()[i].key] = comment
		}
		return false
	})
	return comments
}
