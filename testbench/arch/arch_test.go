package arch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// checks are all checks by name.
var checks = map[string]func(*tree) []string{
	"imports":   checkImports,
	"purity":    checkPure,
	"names":     checkNames,
	"comments":  checkComments,
	"atomics":   checkAtomics,
	"documents": checkDocuments,
}

func TestTheTreeKeepsItsRules(t *testing.T) {
	tree, err := readTree(os.DirFS(moduleRoot(t)))
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.packages) < 20 {
		t.Fatalf("only %d packages were found", len(tree.packages))
	}
	for _, dir := range pure {
		if tree.find(dir) == nil {
			t.Errorf("pure package %s does not exist", dir)
		}
	}
	for name, check := range checks {
		t.Run(name, func(t *testing.T) {
			for _, wrong := range check(tree) {
				t.Error(wrong)
			}
		})
	}
}

func (t *tree) find(dir string) *pkg {
	for _, p := range t.packages {
		if p.dir == dir {
			return p
		}
	}
	return nil
}

// moduleRoot returns the folder of the product's go.mod.
func moduleRoot(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+module+"\n") {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod of module " + module + " above the test")
		}
		dir = up
	}
}

// goFiles returns a tree of files; a text that is no Go file yet gets its package clause and
// comment from its folder.
func goFiles(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{"go.mod": {Data: []byte("module dunlin\n")}}
	for name, text := range files {
		if strings.HasSuffix(name, ".go") && !strings.Contains(text, "package ") {
			p := filepath.Base(filepath.Dir(name))
			text = "// Package " + p + " is a test.\npackage " + p + "\n" + text
		}
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

// TestEachRuleCanBeBroken is the test of the tests: every check goes red for what it is there
// for, and only then.
func TestEachRuleCanBeBroken(t *testing.T) {
	for _, c := range []struct {
		name, check string
		files       map[string]string
		want        string // part of the only finding; "" = none
	}{
		{"standard library", "imports", map[string]string{"core/topic/a.go": `import "strings"`}, ""},
		{"allowed package", "imports", map[string]string{"core/packet/a.go": `import "dunlin/core/topic"`}, ""},
		{"allowed folder", "imports", map[string]string{"core/broker/a.go": `import "dunlin/core/route"`}, ""},
		{"allowed module", "imports", map[string]string{"platform/poll/a.go": `import "golang.org/x/sys/unix"`}, ""},
		{"the wiring", "imports", map[string]string{"cmd/dunlin/a.go": `import ("dunlin/uplink/mqtt"; "example.org/x")`}, ""},
		{"the wrong package", "imports", map[string]string{"core/route/a.go": `import "dunlin/core/packet"`}, "core/route/a.go imports dunlin/core/packet"},
		{"a package with the same beginning", "imports", map[string]string{"core/route/a.go": `import "dunlin/core/topics"`}, "dunlin/core/topics"},
		{"the module itself", "imports", map[string]string{"core/route/a.go": `import "dunlin"`}, "imports dunlin,"},
		{"the wrong module", "imports", map[string]string{"core/route/a.go": `import "golang.org/x/sys/unix"`}, "golang.org/x/sys/unix"},
		{"a module with the same beginning", "imports", map[string]string{"platform/poll/a.go": `import "golang.org/x/system"`}, "golang.org/x/system"},
		{"another system's file", "imports", map[string]string{"core/route/a_plan9.go": `import "dunlin/core/packet"`}, "a_plan9.go"},
		{"ignored file", "imports", map[string]string{"core/route/a.go": "//go:build ignore\n\n// Package route is.\npackage route\nimport \"dunlin/core/packet\""}, "dunlin/core/packet"},
		{"new package", "imports", map[string]string{"core/gossip/a.go": ""}, "core/gossip has no row"},
		{"new package of cmd", "imports", map[string]string{"cmd/dunlin/extra/a.go": ""}, "cmd/dunlin/extra has no row"},
		{"test of core imports more", "imports", map[string]string{"core/route/a_test.go": `import "dunlin/core/packet"`}, ""},
		{"test of core imports the store", "imports", map[string]string{"core/broker/a_test.go": `import "dunlin/storeforward/spool"`}, "never in that direction"},
		{"test of platform imports core", "imports", map[string]string{"platform/poll/a_test.go": `import "dunlin/core/topic"`}, "never in that direction"},
		{"nested module", "imports", map[string]string{"testbench/peers/go.mod": "module x\n", "testbench/peers/a.go": "package other"}, ""},

		{"pure", "purity", map[string]string{"core/session/a.go": "import \"time\"\nvar d time.Duration = time.Second"}, ""},
		{"reads the clock", "purity", map[string]string{"core/session/a.go": "import \"time\"\nvar d = time.Now()"}, "uses time.Now"},
		{"reads the clock by another name", "purity", map[string]string{"core/session/a.go": "import t \"time\"\nvar d = t.Now"}, "uses time.Now"},
		{"reads the clock by a dot", "purity", map[string]string{"core/session/a.go": "import . \"time\"\nvar d = Now()"}, "by a dot"},
		{"waits", "purity", map[string]string{"uplink/forward/a.go": "import \"time\"\nfunc f() { time.Sleep(1) }"}, "uses time.Sleep"},
		{"starts a goroutine", "purity", map[string]string{"uplink/forward/a.go": "func f() { go f() }"}, "starts a goroutine"},
		{"locks", "purity", map[string]string{"uplink/forward/a.go": `import "sync/atomic"`}, "imports sync/atomic"},
		{"opens files", "purity", map[string]string{"core/session/a.go": `import "os"`}, "imports os"},
		{"dials", "purity", map[string]string{"core/session/a.go": `import "net/http"`}, "imports net/http"},
		{"a test may", "purity", map[string]string{"core/session/a_test.go": `import "os"`}, ""},
		{"others may", "purity", map[string]string{"core/conn/a.go": `import "os"`}, ""},

		{"vague name", "names", map[string]string{"core/util/a.go": ""}, "core/util is named by no concept"},
		{"vague name below", "names", map[string]string{"cmd/dunlin/helpers/a.go": ""}, "named by no concept"},
		{"another name than the folder", "names", map[string]string{"core/route/a.go": "package router"}, "is of package router"},
		{"a command", "names", map[string]string{"cmd/dunlin/a.go": "package main"}, ""},
		{"external test", "names", map[string]string{"core/route/a_test.go": "package route_test"}, ""},

		{"comment", "comments", map[string]string{"core/route/a.go": "", "core/route/b.go": "package route"}, ""},
		{"no comment", "comments", map[string]string{"core/route/a.go": "package route"}, "core/route has no package comment"},
		{"comment in a test", "comments", map[string]string{"core/route/a.go": "package route", "core/route/a_test.go": ""}, "no package comment"},
		{"tests alone", "comments", map[string]string{"testbench/crash/a_test.go": ""}, ""},
		{"two comments", "comments", map[string]string{"core/route/a.go": "", "core/route/b.go": ""}, "a.go, core/route/b.go"},
		{"comment of another form", "comments", map[string]string{"core/route/a.go": "// Routes.\npackage route"}, "does not begin with Package route"},
		{"command", "comments", map[string]string{"cmd/dunlin/a.go": "// Dunlin is a broker.\npackage main"}, ""},

		{"typed atomics", "atomics", map[string]string{"core/loop/a.go": "import \"sync/atomic\"\nvar n atomic.Uint64"}, ""},
		{"32-bit atomics", "atomics", map[string]string{"core/loop/a.go": "import \"sync/atomic\"\nvar f = atomic.AddInt32"}, ""},
		{"64-bit atomics", "atomics", map[string]string{"core/loop/a.go": "import \"sync/atomic\"\nvar f = atomic.AddUint64"}, "uses atomic.AddUint64"},

		{"no document", "documents", map[string]string{"core/route/a.go": ""}, ""},
		{
			"paths that exist", "documents",
			map[string]string{"core/route/a.go": "", "ARCHITECTURE.md": "`core/route` and `core/route/a.go`, `core/`, `ARCHITECTURE.md`"},
			"",
		},
		{
			"what is no path", "documents",
			map[string]string{"ARCHITECTURE.md": "`a/#`, `$SYS/x`, `/var/lib/dunlin`, `go.etcd.io/bbolt`, `Store`, `a.b`, `uplink-<name>.db`"},
			"",
		},
		{"path that does not exist", "documents", map[string]string{"ARCHITECTURE.md": "first\nsee `core/router`"}, "ARCHITECTURE.md:2: core/router does not exist"},
		{"file that does not exist", "documents", map[string]string{"FORMAT.md": "see `SECURITY.md`"}, "FORMAT.md:1: SECURITY.md does not exist"},
		{"package that is not in the map", "documents", map[string]string{"core/route/a.go": "", "ARCHITECTURE.md": "`core`"}, "does not name core/route"},
		{"package of the testbench", "documents", map[string]string{"testbench/x/a.go": "", "ARCHITECTURE.md": "`core`"}, ""},
	} {
		t.Run(c.check+"/"+c.name, func(t *testing.T) {
			tree, err := readTree(goFiles(c.files))
			if err != nil {
				t.Fatal(err)
			}
			wrong := checks[c.check](tree)
			switch {
			case c.want == "" && len(wrong) > 0:
				t.Errorf("found %q", wrong)
			case c.want != "" && (len(wrong) != 1 || !strings.Contains(wrong[0], c.want)):
				t.Errorf("found %q, want one with %q", wrong, c.want)
			}
		})
	}
}

func TestTheTableHasNoRowTwice(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules {
		if seen[r.of] {
			t.Errorf("%s has two rows: only the first counts", r.of)
		}
		seen[r.of] = true
	}
}
