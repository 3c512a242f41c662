package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestEveryFileIsDocumented compares files.go with the page that describes the run directory.
func TestEveryFileIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/run-directory.md")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "files.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.BasicLit); ok && v.Kind == token.STRING {
			name, err := strconv.Unquote(v.Value)
			if err != nil {
				t.Fatal(err)
			}
			names++
			if !strings.Contains(string(page), "`"+name) {
				t.Errorf("docs/run-directory.md does not tell of %s", name)
			}
		}
		return true
	})
	if names != 8 {
		t.Errorf("files.go has %d names", names)
	}
}
