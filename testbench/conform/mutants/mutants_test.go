package main

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutantsFitTheTree sees that what the mutants break is still there, once, that what stands
// there instead is Go, and that their statements are in the list. make mutants tries them.
func TestMutantsFitTheTree(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	listed := map[string]string{}
	for name, file := range map[string]string{"5.0": "statements50.go", "3.1.1": "statements311.go"} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			t.Fatal(err)
		}
		listed[name] = string(text)
	}
	names := map[string]bool{}
	for _, m := range mutants {
		if names[m.name] || len(m.statements) == 0 {
			t.Errorf("%q stands twice or breaks no statement", m.name)
		}
		names[m.name] = true
		text, err := os.ReadFile(filepath.Join(root, m.file))
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
			continue
		}
		if n := strings.Count(string(text), m.text); n != 1 {
			t.Errorf("%s: %s has %q %d times, want once", m.name, m.file, m.text, n)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, m.apply(text), parser.SkipObjectResolution); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for _, s := range m.statements {
			version, id, _ := strings.Cut(s, ":")
			if !strings.Contains(listed[version], `{id: "`+id+`",`) {
				t.Errorf("%s: there is no statement %s", m.name, s)
			}
		}
	}
}
