package arch

import (
	"errors"
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Each check returns what is wrong, one sentence each.

// checkImports compares what packages import with the table, and what they and their tests
// import with the directions that are never allowed.
func checkImports(t *tree) (wrong []string) {
	for _, p := range t.packages {
		r, ok := ruleOf(p.dir)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s has no row in the table of testbench/arch", p.dir))
		}
		for _, f := range p.files {
			for _, imported := range f.imports {
				if ok && !f.test && !r.allows(imported) {
					wrong = append(wrong, fmt.Sprintf("%s imports %s, which %s may not", f.name, imported, r.of))
				}
				if ours, ok := strings.CutPrefix(imported, module+"/"); ok && isNever(p.dir, ours) {
					wrong = append(wrong, fmt.Sprintf("%s imports %s: never in that direction", f.name, imported))
				}
			}
		}
	}
	return wrong
}

func ruleOf(dir string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return r.is(dir) })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

func (r rule) is(dir string) bool {
	folder, all := strings.CutSuffix(r.of, "/...")
	return dir == r.of || all && within(dir, folder)
}

func (r rule) allows(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	if first != module && !strings.Contains(first, ".") {
		return true // the standard library
	}
	ours, isOurs := strings.CutPrefix(imported, module+"/")
	for _, may := range r.may {
		folder, all := strings.CutSuffix(may, "/...")
		switch {
		case may == "anything",
			isOurs && (ours == may || all && within(ours, folder)),
			!isOurs && within(imported, may):
			return true
		}
	}
	return false
}

func isNever(dir, ours string) bool {
	for _, n := range never {
		if within(dir, n.from) && slices.ContainsFunc(n.to, func(to string) bool { return within(ours, to) }) {
			return true
		}
	}
	return false
}

// checkPure sees that the pure packages neither touch the outside nor run anything by themselves.
func checkPure(t *tree) (wrong []string) {
	for _, p := range t.packages {
		if !slices.Contains(pure, p.dir) {
			continue
		}
		for _, f := range p.files {
			if !f.test {
				wrong = append(wrong, checkPureFile(f)...)
			}
		}
	}
	return wrong
}

func checkPureFile(f *file) (wrong []string) {
	clock := "" // the name of package time in this file
	for i, spec := range f.ast.Imports {
		imported := f.imports[i]
		if slices.ContainsFunc(impure, func(name string) bool { return within(imported, name) }) {
			wrong = append(wrong, fmt.Sprintf("%s imports %s and is to be pure", f.name, imported))
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			wrong = append(wrong, fmt.Sprintf("%s imports %s by a dot, which hides what it uses", f.name, imported))
		}
		if imported == "time" {
			clock = name
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			wrong = append(wrong, fmt.Sprintf("%s starts a goroutine and is to be pure", f.name))
		case *ast.SelectorExpr:
			of, ok := n.X.(*ast.Ident)
			if ok && clock != "" && of.Name == clock && slices.Contains(clockFunctions, n.Sel.Name) {
				wrong = append(wrong, fmt.Sprintf("%s uses time.%s and is to be pure", f.name, n.Sel.Name))
			}
		}
		return true
	})
	return wrong
}

// checkNames sees that packages are named by what they are, and as their folders.
func checkNames(t *tree) (wrong []string) {
	for _, p := range t.packages {
		base := path.Base(p.dir)
		if slices.Contains(vagueNames, base) {
			wrong = append(wrong, fmt.Sprintf("%s is named by no concept", p.dir))
		}
		for _, f := range p.files {
			name := f.ast.Name.Name
			if f.test {
				name = strings.TrimSuffix(name, "_test")
			}
			if name != "main" && name != base {
				wrong = append(wrong, fmt.Sprintf("%s is of package %s, its folder is %s", f.name, name, base))
			}
		}
	}
	return wrong
}

// checkComments sees that each package has one package comment of the usual form.
func checkComments(t *tree) (wrong []string) {
	for _, p := range t.packages {
		// What consists of tests alone has its comment there.
		onlyTests := !slices.ContainsFunc(p.files, func(f *file) bool { return !f.test })
		var commented []string
		for _, f := range p.files {
			if f.ast.Doc == nil || f.test && !onlyTests {
				continue
			}
			commented = append(commented, f.name)
			name := f.ast.Name.Name
			text := f.ast.Doc.Text()
			if name != "main" && !strings.HasPrefix(text, "Package "+name+" ") {
				wrong = append(wrong, fmt.Sprintf("%s: the package comment does not begin with Package %s", f.name, name))
			}
		}
		switch len(commented) {
		case 0:
			wrong = append(wrong, fmt.Sprintf("%s has no package comment", p.dir))
		case 1:
		default:
			wrong = append(wrong, fmt.Sprintf("%s has package comments in %s", p.dir, strings.Join(commented, ", ")))
		}
	}
	return wrong
}

// checkAtomics sees that 64-bit atomics are of the types that align themselves: the functions
// on plain integers panic on 32-bit ARM where those are not aligned.
func checkAtomics(t *tree) (wrong []string) {
	for _, p := range t.packages {
		for _, f := range p.files {
			if !slices.Contains(f.imports, "sync/atomic") {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				of, ok := s.X.(*ast.Ident)
				// The types are Int64 and Uint64, the functions AddInt64, LoadUint64 and so on.
				if ok && of.Name == "atomic" && strings.HasSuffix(s.Sel.Name, "nt64") && s.Sel.Name != "Int64" && s.Sel.Name != "Uint64" {
					wrong = append(wrong, fmt.Sprintf("%s uses atomic.%s: take a field of type atomic.Int64 or atomic.Uint64", f.name, s.Sel.Name))
				}
				return true
			})
		}
	}
	return wrong
}

var (
	quoted = regexp.MustCompile("`([^`\\s]+)`")
	// isPath is what counts as a path in a document: at least one slash and nothing but names,
	// or a file that stands at the top. Topics with wildcards and absolute paths are none.
	isPath = regexp.MustCompile(`^(\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)+/?|[A-Z][A-Za-z.-]*\.md|Makefile|LICENSE|go\.mod)$`)
)

// checkDocuments sees that paths which documents name exist, and that the package map is whole.
func checkDocuments(t *tree) (wrong []string) {
	for _, name := range documents {
		text, err := fs.ReadFile(t.root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return append(wrong, err.Error())
		}
		named := map[string]bool{}
		for i, line := range strings.Split(string(text), "\n") {
			for _, match := range quoted.FindAllStringSubmatch(line, -1) {
				p := strings.TrimSuffix(match[1], "/")
				named[p] = true
				if !isPath.MatchString(match[1]) || isModule(p) {
					continue
				}
				if _, err := fs.Stat(t.root, p); err != nil {
					wrong = append(wrong, name+":"+strconv.Itoa(i+1)+": "+p+" does not exist")
				}
			}
		}
		if name != packageMap {
			continue
		}
		for _, p := range t.packages {
			in := func(folder string) bool { return within(p.dir, folder) }
			if slices.ContainsFunc(mapped, in) && !named[p.dir] {
				wrong = append(wrong, fmt.Sprintf("%s does not name %s", name, p.dir))
			}
		}
	}
	return wrong
}

// isModule reports whether p is an import path of somebody else: its first part is a host.
func isModule(p string) bool {
	host, _, more := strings.Cut(p, "/")
	return more && strings.Contains(strings.TrimPrefix(host, "."), ".")
}
