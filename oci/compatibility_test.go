package oci

import (
	"os"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// foreign are sections for other platforms, each of which the document treats as a whole.
var foreign = map[string]bool{"solaris": true, "windows": true, "vm": true, "zos": true, "freebsd": true}

func TestCompatibilityNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	config := fieldNames(reflect.TypeFor[specs.Spec](), "")
	if len(config) < 150 {
		t.Errorf("only %d fields were found", len(config))
	}
	for _, name := range append(config, fieldNames(reflect.TypeFor[features.Features](), "features")...) {
		if !named(string(text), name) {
			t.Errorf("`%s` is not in docs/compatibility.md", name)
		}
	}
}

// named says whether the text has the name, or one of the names it lies in with ".*" for all of them.
func named(text, name string) bool {
	if strings.Contains(text, "`"+name+"`") || strings.Contains(text, "`"+name+".*`") {
		return true
	}
	for {
		dot := strings.LastIndexByte(name, '.')
		if dot < 0 {
			return false
		}
		name = name[:dot]
		if strings.Contains(text, "`"+name+".*`") {
			return true
		}
	}
}

// fieldNames are the JSON names of all fields of a type and those in it, as "a.b"; those in a list as "a[].b", those in
// a map as "a{}.b".
func fieldNames(kind reflect.Type, prefix string) []string {
	switch kind.Kind() {
	case reflect.Pointer:
		return fieldNames(kind.Elem(), prefix)
	case reflect.Slice:
		return fieldNames(kind.Elem(), prefix+"[]")
	case reflect.Map:
		return fieldNames(kind.Elem(), prefix+"{}")
	case reflect.Struct:
	default:
		return nil
	}
	var names []string
	for field := range kind.Fields() {
		if field.Anonymous {
			names = append(names, fieldNames(field.Type, prefix)...)
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if prefix != "" {
			name = prefix + "." + name
		}
		names = append(names, name)
		if !foreign[name] {
			names = append(names, fieldNames(field.Type, name)...)
		}
	}
	return names
}
