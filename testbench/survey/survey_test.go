// Package survey damages the data folder of a broker in every way that media, people and programs
// do, starts the broker on it, and looks at what it says, keeps and takes.
//
// What it should keep is found out by a reader of its own (see records_test.go): every record that is
// whole in the damaged file.
package survey

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dunlin/testbench/process"
)

var (
	cases = flag.Int("cases", 36, "how many damaged folders, besides the special ones")
	seed  = flag.Uint64("seed", 1, "of what is damaged")
)

// guard bounds the whole, so that a broker that hangs fails it.
const guard = 60 * time.Minute

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	process.Cleanup()
	os.Exit(code)
}

// result counts over all cases.
type result struct {
	mu                              sync.Mutex
	cases, whole, mended, anew      int
	records, intact, kept, received int
	kinds                           map[string]int
}

func (r *result) add(kind string, o *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cases++
	r.kinds[kind]++
	switch {
	case o.anew:
		r.anew++
	case o.mended:
		r.mended++
	default:
		r.whole++
	}
	r.records += o.records
	r.intact += o.intact
	r.kept += o.kept
	r.received += o.received
}

func TestTheBrokerStartsWhateverItsFilesHaveSuffered(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), guard)
	defer cancel()
	crashed, clean := makeFolders(ctx, t)
	control := [2]*original{examine(t, crashed), examine(t, clean)}
	sum := &result{kinds: make(map[string]int)}
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() { // ends when numbers is closed; waited for below
			for n := range numbers {
				t.Run(fmt.Sprint(n), func(t *testing.T) { oneCase(ctx, t, n, control[n%2], sum) })
			}
		})
	}
	for n := range *cases {
		numbers <- n
	}
	close(numbers)
	workers.Wait()
	t.Logf("seed %d: %d damaged folders: %d passed for whole, %d were mended, %d begun anew", *seed, sum.cases, sum.whole, sum.mended, sum.anew)
	t.Logf("kinds of damage: %v", sum.kinds)
	t.Logf("records in the files %d, whole in the damaged files %d, of them kept %d; received by their sessions %d", sum.records, sum.intact, sum.kept, sum.received)
	if sum.kept != sum.intact {
		t.Errorf("%d records that are whole were not kept", sum.intact-sum.kept)
	}
}

// oneCase damages a file of a folder, the sessions in two of three cases, and starts the broker on it.
func oneCase(ctx context.Context, t *testing.T, n int, o *original, sum *result) {
	r := rand.New(rand.NewPCG(*seed, uint64(n)))
	name := "sessions.db"
	if n%3 == 2 {
		name = spoolName
	}
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	copyFolder(t, o.folder, data)
	path := filepath.Join(data, name)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := damages[n/2%len(damages)]
	file, where := d.do(r, file)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	what := fmt.Sprintf("%s: %s %s", name, d.name, where)
	want := o.expect(name, file)
	p := serve(ctx, t, dir, data)
	defer p.Kill()
	out := &outcome{records: want.records, intact: want.intact}
	takesWork(ctx, t, p, what)
	if name == "sessions.db" {
		out.received = receives(ctx, t, p, o, want, r, what)
	}
	if err := p.Stop(ctx); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	log := p.Tail(1 << 20)
	out.anew = strings.Contains(log, "beginning anew")
	out.mended = strings.Contains(log, "damaged file was salvaged")
	lost := want.compare(t, path, what, out)
	if lost > 0 && !strings.Contains(log, "ERROR") {
		t.Errorf("%s: %d records are lost, and it says nothing about it:\n%s", what, lost, log)
	}
	if (out.anew || out.mended) != (len(aside(t, path)) > 0) && !strings.Contains(log, "file is empty") {
		t.Errorf("%s: the damaged file is not kept", what)
	}
	if t.Failed() {
		t.Logf("%s\n%s", what, log)
	}
	sum.add(d.name, out)
}

// outcome is what came of a case.
type outcome struct {
	anew, mended              bool
	records, intact, received int
	kept                      int // of intact
}

func aside(t *testing.T, path string) []string {
	t.Helper()
	all, err := filepath.Glob(path + ".damaged-*")
	if err != nil {
		t.Fatal(err)
	}
	return all
}
